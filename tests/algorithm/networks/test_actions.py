"""From embeddings of entities to the numbers of an action."""

from __future__ import annotations

import torch

from d2rl.algorithm.networks import ActionOutput
from d2rl.problems.base import Layout

CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layout(*counts: int, numbers: int = 3) -> Layout:
    return Layout(counts, (numbers,) * len(counts))


def build_output(kinds: int = 2, width: int = 16) -> ActionOutput:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ActionOutput(layout(*[1] * kinds), width)


def test_the_first_policy_is_near_the_middle_but_not_the_same_for_every_entity():
    numbers = build_output()(normal(64, 10, 16), layout(6, 4))
    assert numbers.shape == (64, 10, 3)
    assert numbers.abs().mean() < 0.1
    assert numbers.std() > 0.01


def test_each_kind_is_read_with_its_own_weights():
    output, embedding = build_output(kinds=3), normal(5, 6, 16)
    each = [output(embedding, layout(*counts)) for counts in ((6, 0, 0), (0, 6, 0), (0, 0, 6))]
    assert all((one != other).all() for one, other in zip(each, [*each[1:], each[0]], strict=True))
    mixed = output(embedding, layout(3, 1, 2))
    weight, bias = output.linear.weight.double(), output.linear.bias.double()
    for kind, entities in enumerate((slice(0, 3), slice(3, 4), slice(4, 6))):
        assert torch.equal(mixed[:, entities], each[kind][:, entities])
        rows = slice(3 * kind, 3 * kind + 3)  # the numbers of the first kind, then those of the second, ...
        expected = embedding[2, entities].double() @ weight[rows].mT + bias[rows]
        torch.testing.assert_close(mixed[2, entities].double(), expected, rtol=1e-5, atol=1e-6)


def test_one_kind_needs_one_set_of_weights():
    output, embedding = build_output(kinds=1), normal(5, 4, 16)
    assert output.linear.weight.shape == (3, 16)
    torch.testing.assert_close(output(embedding, layout(4)), output.linear(embedding))


def test_numbers_follow_the_order_of_entities_of_a_kind():
    output, embedding, order = build_output(), normal(5, 4, 16), [1, 0, 3, 2]
    torch.testing.assert_close(output(embedding[:, order], layout(2, 2)), output(embedding, layout(2, 2))[:, order])
