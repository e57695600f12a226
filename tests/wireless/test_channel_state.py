"""The channel container: what it selects, keeps in step and refuses."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from d2rl.common.errors import InputError
from d2rl.wireless import concatenate, link_rates, random_decision

NAMES = ["downlink", "uplink", "cross", "self_interference"]


def test_sizes_are_those_of_the_tensors(make_channels):
    channels = make_channels(5, downlink_users=3, uplink_users=2, transmit_antennas=7, receive_antennas=4)
    assert (channels.batch, channels.downlink_users, channels.uplink_users, channels.links) == (5, 3, 2, 5)
    assert (channels.transmit_antennas, channels.receive_antennas) == (7, 4)
    assert [tuple(t.shape) for t in channels.tensors().values()] == [(5, 3, 7), (5, 2, 4), (5, 2, 3), (5, 4, 7)]


def test_selected_states_joined_again_are_the_whole(channels):
    whole = concatenate([channels[:5], channels[5:6], channels[torch.arange(6, 16)]])
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, getattr(channels, name)), name


def test_mask_selects_the_same_states_of_every_tensor(channels):
    mask = torch.arange(16) % 3 == 0
    chosen = channels[mask]
    assert chosen.batch == 6
    for name, tensor in chosen.tensors().items():
        assert torch.equal(tensor[1], getattr(channels, name)[3]), name


def test_repeat_puts_copies_side_by_side(channels):
    repeated = channels.repeat(3)
    assert repeated.batch == 48
    for name, tensor in repeated.tensors().items():
        original = getattr(channels, name)
        assert torch.equal(tensor.unflatten(0, (16, 3)), original.unsqueeze(1).expand(-1, 3, *original.shape[1:])), name


def test_double_keeps_the_values(channels):
    for name, tensor in channels.double().tensors().items():
        assert tensor.dtype == torch.complex128
        assert torch.equal(tensor.to(torch.complex64), getattr(channels, name)), name


def test_permuted_users_take_their_cross_gains_along(channels):
    down, up = [4, 2, 0, 5, 1, 3], [3, 1, 0, 2]
    permuted = channels.permute_users(down, up)
    for new_k, old_k in enumerate(up):
        assert torch.equal(permuted.uplink[:, new_k], channels.uplink[:, old_k])
        for new_j, old_j in enumerate(down):
            assert torch.equal(permuted.cross[:, new_k, new_j], channels.cross[:, old_k, old_j])
            assert torch.equal(permuted.downlink[:, new_j], channels.downlink[:, old_j])


def test_rates_follow_the_users_into_another_order(channels, generator):
    down, up = [4, 2, 0, 5, 1, 3], [3, 1, 0, 2]
    precoder, power = random_decision(channels, generator)
    before = link_rates(channels, precoder, power)
    after = link_rates(channels.permute_users(down, up), precoder[..., down], power[:, up])
    torch.testing.assert_close(after, before[:, [*down, *(6 + k for k in up)]], atol=1e-4, rtol=0)


def test_sound_channels_pass_validation(channels):
    assert channels.validate() is channels
    conjugated = channels.map(torch.conj)  # lazily conjugated tensors are as good as any
    assert conjugated.validate() is conjugated


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), complex(0, float("nan")), complex(1, float("-inf"))])
def test_a_value_that_is_not_finite_is_refused_by_name(channels, name, value):
    spoilt = getattr(channels, name).clone()
    spoilt.view(-1)[-1] = value
    with pytest.raises(InputError, match=rf"channels\.{name} holds NaN or infinite"):
        dataclasses.replace(channels, **{name: spoilt}).validate()


@pytest.mark.parametrize("name", ["uplink", "cross", "self_interference"])
def test_a_shape_that_does_not_fit_is_refused_by_name(channels, name):
    with pytest.raises(InputError, match=rf"channels\.{name} has shape \(15, "):
        dataclasses.replace(channels, **{name: getattr(channels, name)[:15]}).validate()


def test_swapped_user_axes_of_the_cross_gains_are_refused(channels):
    with pytest.raises(InputError, match=r"channels\.cross has shape \(16, 6, 4\), the others ask for \(16, 4, 6\)"):
        dataclasses.replace(channels, cross=channels.cross.mT).validate()


@pytest.mark.parametrize("name", ["downlink", "uplink"])
def test_a_missing_batch_dimension_is_refused_by_name(channels, name):
    with pytest.raises(InputError, match=rf"channels\.{name} needs 3 dimensions"):
        dataclasses.replace(channels, **{name: getattr(channels, name)[0]}).validate()


@pytest.mark.parametrize("name", NAMES)
def test_real_numbers_are_refused_by_name(channels, name):
    with pytest.raises(InputError, match=rf"channels\.{name} must be complex, got torch.float32"):
        dataclasses.replace(channels, **{name: getattr(channels, name).real}).validate()


def test_one_direction_may_be_without_users_and_nobody_at_all_is_refused_with_the_counts(channels):
    nobody = dataclasses.replace(channels, downlink=channels.downlink[:, :0], cross=channels.cross[..., :0]).validate()
    with pytest.raises(InputError, match="0 downlink and 0 uplink users"):
        dataclasses.replace(nobody, uplink=channels.uplink[:, :0], cross=channels.cross[:, :0, :0]).validate()
