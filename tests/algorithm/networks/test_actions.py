"""From embeddings to numbers of links, and between links and flat actions."""

from __future__ import annotations

import pytest
import torch

from d2rl.algorithm.networks import ActionOutput, downlink_mask
from d2rl.wireless.heads import ActionLayout, BeamformingHead, StructuredHead

LAYOUTS = [StructuredHead().layout, BeamformingHead(3).layout, BeamformingHead(1).layout, ActionLayout(down=1, up=4)]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build_output(numbers: int = 3, width: int = 16) -> ActionOutput:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ActionOutput(numbers, width)


@pytest.mark.parametrize(("links", "downlink_users"), [(10, 6), (2, 1), (3, 3)])
def test_mask_marks_the_first_links(links, downlink_users):
    mask = downlink_mask(links, downlink_users, torch.device("cpu"))
    assert mask.shape == (links, 1)
    assert mask.flatten().tolist() == [i < downlink_users for i in range(links)]


def test_the_first_policy_is_near_the_middle_but_not_the_same_for_every_link():
    numbers = build_output()(normal(64, 10, 16), downlink_mask(10, 6, torch.device("cpu")))
    assert numbers.shape == (64, 10, 3)
    assert numbers.abs().mean() < 0.1
    assert numbers.std() > 0.01


def test_each_direction_is_read_with_its_own_weights():
    output, embedding = build_output(), normal(5, 4, 16)
    all_down, all_up = (output(embedding, torch.full((4, 1), value)) for value in (True, False))
    mixed = output(embedding, downlink_mask(4, 3, torch.device("cpu")))
    assert (all_down != all_up).all()
    assert torch.equal(mixed[:, :3], all_down[:, :3])
    assert torch.equal(mixed[:, 3:], all_up[:, 3:])
    weight, bias = output.linear.weight.double(), output.linear.bias.double()
    for k, rows in ((0, slice(0, 3)), (3, slice(3, 6))):  # downlink numbers, then uplink numbers
        expected = embedding[2, k].double() @ weight[rows].mT + bias[rows]
        torch.testing.assert_close(mixed[2, k].double(), expected, rtol=1e-5, atol=1e-6)


def test_numbers_follow_the_order_of_links_of_a_direction():
    output, embedding, mask = build_output(), normal(5, 4, 16), downlink_mask(4, 2, torch.device("cpu"))
    order = [1, 0, 3, 2]
    torch.testing.assert_close(output(embedding[:, order], mask), output(embedding, mask)[:, order])


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("lead", [(4,), (4, 3)], ids=["action", "candidates"])
def test_flat_actions_come_back_from_links(layout, lead):
    flat = normal(*lead, 5 * layout.down + 2 * layout.up)
    links = layout.to_links(flat, 5)
    assert links.shape == (*lead, 7, layout.width)
    assert torch.equal(layout.to_flat(links, 5), flat)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_links_come_back_from_flat_actions_with_padding_zero(layout):
    links = normal(4, 3, 7, layout.width)
    again = layout.to_links(layout.to_flat(links, 5), 5)
    assert torch.equal(again[..., :5, : layout.down], links[..., :5, : layout.down])
    assert torch.equal(again[..., 5:, : layout.up], links[..., 5:, : layout.up])
    assert (again[..., :5, layout.down :] == 0).all()
    assert (again[..., 5:, layout.up :] == 0).all()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_flat_action_lists_downlink_users_then_uplink_users(layout):
    links = layout.to_links(torch.arange(5 * layout.down + 2 * layout.up), 5).tolist()
    for j in range(5):
        assert links[j][: layout.down] == list(range(j * layout.down, (j + 1) * layout.down))
    for k in range(2):
        start = 5 * layout.down + k * layout.up
        assert links[5 + k][: layout.up] == list(range(start, start + layout.up))
