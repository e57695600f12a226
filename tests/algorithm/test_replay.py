"""The replay buffer as a ring: what it keeps, what it gives, what it moves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from d2rl.algorithm.replay import ReplayBuffer
from d2rl.common.tensor_struct import TensorStruct
from d2rl.problems.base import Layout, Observation, Transition

CPU = torch.device("cpu")
LAYOUT = Layout((1,), (2,))


@dataclass(frozen=True)
class Known(TensorStruct):
    channel: Tensor


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(first: int, count: int) -> Transition:
    """Transitions that tell their own number: real vectors, a complex matrix, a flag."""
    number = torch.arange(first, first + count)
    real = number.float()[:, None]
    known = Known(torch.complex(real, 2 * real)[:, :, None].expand(-1, 2, 3))
    observation = Observation(real[:, None], real[:, None, None], real, real, known, LAYOUT)
    action = torch.stack([real, -real], dim=-1)
    return Transition(observation, action, action[:, :, None], real[:, None], terminated=number % 2 == 0)


def contents(buffer: ReplayBuffer) -> list[int]:
    return sorted(int(value) for value in buffer.storage["action"][: len(buffer), 0, 0])


@pytest.mark.parametrize("batches", [(3,), (4, 4), (4, 4, 4), (10,), (7, 6, 1, 9), (3,) * 17], ids=str)
def test_the_latest_transitions_are_kept(batches):
    buffer, written = ReplayBuffer(10), 0
    for count in batches:
        buffer.add(numbered(written, count))
        written += count
        assert len(buffer) == min(written, 10)
        assert contents(buffer) == list(range(max(0, written - 10), written))
        newest = buffer.newest(min(len(buffer), 4)).action[:, 0, 0].tolist()
        assert newest == list(range(written - len(newest), written))


def test_parts_of_a_transition_stay_together():
    buffer, first = ReplayBuffer(10), 0
    for count in (4, 7, 5, 9):
        buffer.add(numbered(first, count))
        first += count
    sample = buffer.sample(200, seeded())
    assert type(sample) is Transition
    number, channel = sample.action[:, 0, 0], sample.observation.known.channel
    assert channel.shape == (200, 2, 3)
    assert torch.equal(sample.action[:, 0, 1], -number)
    assert torch.equal(channel, torch.complex(number, 2 * number)[:, None, None].expand(-1, 2, 3))
    assert torch.equal(sample.observation.nodes.flatten(), number)
    assert torch.equal(sample.terminated, number % 2 == 0)
    assert sample.terminated.dtype == torch.bool
    assert sample.observation.layout == LAYOUT
    assert (sample.generated, sample.following) == (None, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), complex(0, float("nan"))], ids=str)
@pytest.mark.parametrize("row", [0, 2])
def test_a_transition_that_is_not_finite_is_counted_and_leaves_its_place_to_another(row, value):
    buffer, batch = ReplayBuffer(10), numbered(0, 4).map(torch.clone)
    batch.observation.known.channel[row, 1, 2] = value
    buffer.add(batch)
    assert len(buffer) == 4
    other = 1 if row == 0 else 0
    assert contents(buffer) == sorted([*({0, 1, 2, 3} - {row}), other])
    stored = {name: tensor[row] for name, tensor in buffer.storage.items()}
    assert all(torch.equal(tensor, batch.tensors()[name][other]) for name, tensor in stored.items())
    assert (buffer.refused_transitions(), buffer.refused_transitions()) == (1, 0)


@pytest.mark.parametrize("filled", [1, 3, 8, 1000])
def test_no_sample_lies_beyond_what_was_written(filled, monkeypatch):
    buffer = ReplayBuffer(1000)
    buffer.add(numbered(0, filled))
    for number in (0.0, 1 - 2**-53):  # the smallest and the largest that rand gives
        monkeypatch.setattr(torch, "rand", lambda *_, number=number, **__: torch.tensor([number], dtype=torch.float64))
        assert buffer.sample(1, seeded()).action[0, 0, 0] == (0 if number == 0 else filled - 1)


@pytest.mark.parametrize("filled", [2**24 + 1, 10**9, 2**53])
def test_the_largest_random_number_stays_below_any_bound(filled):
    assert int((torch.tensor(1 - 2**-53, dtype=torch.float64) * filled).long()) == filled - 1


def test_samples_are_uniform_over_what_was_written():
    buffer = ReplayBuffer(1000)
    buffer.add(numbered(5, 8))  # the other 992 places hold whatever memory held
    counts = Counter(buffer.sample(8000, seeded()).action[:, 0, 0].tolist())
    assert sorted(counts) == list(range(5, 13))
    assert all(abs(count - 1000) < 150 for count in counts.values())  # 5 standard deviations


def test_samples_are_those_of_the_generator():
    buffer = ReplayBuffer(50)
    buffer.add(numbered(0, 50))
    global_state = torch.get_rng_state()
    first, again, other = (buffer.sample(20, seeded(seed)).action for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), global_state)


def test_memory_is_allocated_once_and_shared_with_nobody():
    buffer = ReplayBuffer(6)
    batch = numbered(0, 4)
    buffer.add(batch)
    places = {name: tensor.data_ptr() for name, tensor in buffer.storage.items()}
    batch.action.fill_(99)
    sample = buffer.sample(4, seeded())
    sample.action.fill_(99)
    assert contents(buffer) == [0, 1, 2, 3]
    for first in range(4, 40, 3):
        buffer.add(numbered(first, 3))
    assert {name: tensor.data_ptr() for name, tensor in buffer.storage.items()} == places
    assert all(tensor.shape[0] == 6 for tensor in buffer.storage.values())


def test_gradients_are_not_kept():
    buffer = ReplayBuffer(4)
    batch = numbered(0, 2)
    buffer.add(replace(batch, action=batch.action.clone().requires_grad_()))
    assert not buffer.sample(2, seeded()).action.requires_grad


@pytest.mark.parametrize("written", [3, 10, 14])
def test_a_saved_buffer_continues_exactly(written, tmp_path):
    buffer = ReplayBuffer(10)
    for first in range(written):
        buffer.add(numbered(first, 1))
    saved = buffer.state_dict()
    assert all(tensor.shape[0] == min(written, 10) for tensor in saved["storage"].values())
    torch.save(saved, tmp_path / "replay.pt")
    again = ReplayBuffer(10)
    again.load_state_dict(torch.load(tmp_path / "replay.pt", weights_only=True), CPU)
    assert contents(buffer) == contents(again)
    for first in range(written, written + 15, 3):
        buffer.add(numbered(first, 3))
        again.add(numbered(first, 3))
        samples = [each.sample(30, seeded(first)).tensors() for each in (buffer, again)]
        for name in samples[0]:
            assert torch.equal(samples[0][name], samples[1][name])
    assert contents(buffer) == contents(again)


def test_what_was_saved_does_not_change_afterwards():
    buffer = ReplayBuffer(4)
    buffer.add(numbered(0, 4))
    saved = buffer.state_dict()
    buffer.add(numbered(10, 4))
    again = ReplayBuffer(4)
    again.load_state_dict(saved, CPU)
    again.add(numbered(20, 2))
    third = ReplayBuffer(4)
    third.load_state_dict(saved, CPU)
    assert contents(third) == [0, 1, 2, 3]


def test_an_empty_buffer_can_be_saved_and_filled_later():
    buffer = ReplayBuffer(4)
    again = ReplayBuffer(4)
    again.load_state_dict(buffer.state_dict(), CPU)
    assert len(again) == 0
    again.add(numbered(0, 2))
    assert contents(again) == [0, 1]


@pytest.mark.parametrize("written", [3, 8, 12])
@pytest.mark.parametrize("capacity", [5, 20])
def test_a_buffer_of_another_size_goes_on_with_the_latest_transitions(written, capacity):
    buffer = ReplayBuffer(8)
    for first in range(written):
        buffer.add(numbered(first, 1))
    other = ReplayBuffer(capacity)
    other.load_state_dict(buffer.state_dict(), CPU)
    kept = list(range(max(0, written - min(8, capacity)), written))
    assert contents(other) == kept
    other.add(numbered(100, 2))
    assert contents(other) == [*kept, 100, 101][-capacity:]


def test_a_batch_larger_than_the_buffer_is_refused():
    buffer = ReplayBuffer(3)
    with pytest.raises(ValueError, match=r"4 does not fit a replay buffer of 3"):
        buffer.add(numbered(0, 4))
    assert len(buffer) == 0
    buffer.add(numbered(0, 3))
    assert contents(buffer) == [0, 1, 2]


def test_an_empty_buffer_has_nothing_to_sample():
    with pytest.raises(ValueError, match="empty"):
        ReplayBuffer(4).sample(1, torch.Generator())


def test_a_loaded_buffer_learns_from_the_next_batch_what_a_transition_is():
    buffer, again = ReplayBuffer(4), ReplayBuffer(4)
    buffer.add(numbered(0, 2))
    again.load_state_dict(buffer.state_dict(), CPU)
    with pytest.raises(ValueError, match="no batch was added since it was loaded"):
        again.sample(1, torch.Generator())
    again.add(numbered(2, 1))
    assert set(again.sample(50, seeded()).action[:, 0, 0].tolist()) == {0, 1, 2}
