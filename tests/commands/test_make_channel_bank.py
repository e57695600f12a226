"""Banks of 3GPP TR 38.901 channels: physics against the tables of the report, reciprocity, repetition, the command."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from d2rl.commands.make_channel_bank import channels_command, urban_bank
from d2rl.common.errors import ConfigError, InputError
from d2rl.config.defaults import FullDuplexConfig
from d2rl.envs import FullDuplexEnv
from d2rl.problems.full_duplex.simulator import evaluation_states
from d2rl.wireless.bank_file import load_bank
from d2rl.wireless.propagation import user_positions
from d2rl.wireless.tr38901 import UrbanChannels

FREQUENCY = 2.0  # GHz
SCENARIO = FullDuplexConfig(downlink_users=3, uplink_users=2, transmit_antennas=4, receive_antennas=4)


@pytest.fixture
def sionna():
    """Skip where the optional extra is not installed."""
    with torch.random.fork_rng(devices=[]):  # importing it reseeds torch
        pytest.importorskip("sionna.phy", reason="the extra d2rl[channels] is not installed")


def places(drops: int, users: int = 10, radius: float = 100.0, minimum: float = 10.0) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return user_positions(drops, users, radius, minimum, generator, torch.device("cpu"))


def path_loss(model: str, distance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """TR 38.901 tables 7.4.1-1 and 7.4.2-1: LOS and NLOS path loss in dB, probability of LOS, below the break point."""
    height = {"umi": 10.0, "uma": 25.0}[model] - 1.5
    d = torch.hypot(distance, torch.tensor(height)).log10()
    f = 20 * math.log10(FREQUENCY)
    if model == "umi":
        los, nlos = 32.4 + 21 * d + f, 22.4 + 35.3 * d + 21.3 * math.log10(FREQUENCY)
    else:
        los, nlos = 28 + 22 * d + f, 13.54 + 39.08 * d + f
    decay = torch.exp(-distance / {"umi": 36.0, "uma": 63.0}[model])
    probability = torch.where(distance <= 18, 1, 18 / distance + decay * (1 - 18 / distance))
    return los, torch.maximum(los, nlos), probability


# ------------------------------------------------------------------ physics


@pytest.mark.parametrize("model", ["umi", "uma"])
def test_gains_follow_the_path_loss_of_the_report(sionna, model):
    positions = places(60)
    _, gain = UrbanChannels(model, antennas=2, carrier=FREQUENCY * 1e9, seed=1).draw(positions)
    los, nlos, probability = path_loss(model, positions.norm(dim=-1))
    found = -10 * gain.log10()
    assert bool((found > los - 18).all())  # 4.5 standard deviations of shadow fading in LOS (4 dB)
    assert bool((found < nlos + 35).all())  # and in NLOS (7.82 dB)
    error = found - (probability * los + (1 - probability) * nlos)
    assert error.mean().item() == pytest.approx(0, abs=1.5)
    assert 3 < error.std() < 12  # there is shadow fading


def test_the_mean_gain_is_that_of_the_coefficients(sionna):
    channels, gain = UrbanChannels("umi", antennas=8, carrier=FREQUENCY * 1e9, seed=1).draw(places(60))
    ratio = channels.abs().square().mean(-1) / gain
    assert ratio.mean().item() == pytest.approx(1, abs=0.06)
    assert ratio.std() > 0.1  # the narrow band fades around it


def test_a_user_in_sight_is_seen_in_its_direction_by_the_uplink_and_served_in_it_by_the_downlink(sionna):
    """Closer than 18 m the line of sight is certain."""
    scenario = replace(
        SCENARIO, downlink_users=5, uplink_users=5, transmit_antennas=8, receive_antennas=8, cell_radius=18.0
    )
    bank = urban_bank(scenario, "umi", 30, seed=2)
    # a wave from the user meets antenna n earlier by n (lambda / 2) (y / d) / c; a wave to it is sent as much later
    for channels, position, sign in zip(
        (bank.channels.uplink, bank.channels.downlink),
        (bank.positions.uplink, bank.positions.downlink),
        (1, -1),
        strict=True,
    ):
        sine = position[..., 1] / torch.hypot(position.norm(dim=-1), torch.tensor(8.5))
        phase = sign * math.pi * sine.unsqueeze(-1) * torch.arange(8)
        match = torch.polar(torch.ones_like(phase), phase).conj() * channels
        share = match.sum(-1).abs().square() / (8 * channels.abs().square().sum(-1))
        mirrored = match * torch.polar(torch.ones_like(phase), 2 * phase)
        wrong = mirrored.sum(-1).abs().square() / (8 * channels.abs().square().sum(-1))
        assert share.mean() > 0.7
        assert wrong.mean() < 0.4


def test_the_downlink_is_the_transposed_uplink_over_the_scenario_s_noise(sionna):
    bank = urban_bank(SCENARIO, "uma", 6, seed=3)
    cell = FullDuplexEnv(SCENARIO, 6, 3)
    uplink, gain = UrbanChannels("uma", 4, SCENARIO.carrier * 1e9, seed=3).draw(
        torch.cat(list(cell.state.positions), 1)
    )
    noise = -174 + 70  # dBm in 10 MHz
    down, up = 10 ** ((26 - noise - 9) / 20), 10 ** ((23 - noise - 5) / 20)
    torch.testing.assert_close(bank.channels.downlink.conj(), down * uplink[:, :3], rtol=1e-4, atol=0)
    torch.testing.assert_close(bank.channels.uplink, up * uplink[:, 3:], rtol=1e-4, atol=0)
    torch.testing.assert_close(bank.gains.downlink, down**2 * gain[:, :3], rtol=1e-4, atol=0)
    torch.testing.assert_close(bank.gains.uplink, up**2 * gain[:, 3:], rtol=1e-4, atol=0)
    precoder = torch.randn(6, 4, 1, dtype=torch.complex64)
    received = bank.channels.downlink.conj() @ precoder  # g^H w
    torch.testing.assert_close(received, down * uplink[:, :3] @ precoder)  # h^T w
    for name in ("cross", "self_interference"):  # of which the report knows nothing
        assert torch.equal(getattr(bank.channels, name), getattr(cell.state.channels, name))
        assert torch.equal(getattr(bank.gains, name), getattr(cell.state.gains, name))


def test_users_of_a_site_stay_and_only_phases_of_their_rays_change(sionna):
    bank = urban_bank(SCENARIO, "umi", 400, seed=3, site=True)
    for tensor in (*bank.positions, *bank.gains.tensors().values()):
        assert bool((tensor == tensor[:1]).all())
    for channels, gains in ((bank.channels.downlink, bank.gains.downlink), (bank.channels.uplink, bank.gains.uplink)):
        torch.testing.assert_close(channels.abs().square().mean((0, -1)), gains[0], rtol=0.25, atol=0)
        assert (channels.mean(0).abs().square().mean(-1) < 0.05 * gains[0]).all()  # phases are anything
        halves = [torch.einsum("bkn,bkm->knm", one, one.conj()) / 200 for one in channels.split(200)]
        assert torch.linalg.norm(halves[0] - halves[1]) < 0.4 * torch.linalg.norm(halves[0])


def test_arrays_of_different_sizes(sionna):
    bank = urban_bank(replace(SCENARIO, transmit_antennas=6, receive_antennas=2), "umi", 2, seed=0)
    assert (bank.channels.downlink.shape, bank.channels.uplink.shape) == ((2, 3, 6), (2, 2, 2))
    bank.channels.validate()


def test_the_seed_decides_everything_and_torch_s_generator_is_left_alone(sionna):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = urban_bank(SCENARIO, "umi", 3, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    same, other = urban_bank(SCENARIO, "umi", 3, seed=4), urban_bank(SCENARIO, "umi", 3, seed=5)
    for name, tensor in first.channels.tensors().items():
        assert torch.equal(tensor, getattr(same.channels, name))
        assert not (tensor == getattr(other.channels, name)).any()


# ------------------------------------------------------------------ the command


@pytest.mark.parametrize("ending", ["pt", "npz"])
def test_the_command_writes_a_bank_that_the_scenario_takes(sionna, tmp_path, capsys, ending):
    path = tmp_path / f"bank.{ending}"
    cell = ["scenario.downlink_users=3", "scenario.uplink_users=2", "scenario.transmit_antennas=4"]
    channels_command(["model=umi", "drops=10", f"out={path}", "seed=7", *cell, "scenario.receive_antennas=4"])
    assert "8 states to train on and 2 for evaluation" in capsys.readouterr().out
    expected = urban_bank(SCENARIO, "umi", 10, seed=7)
    found = load_bank(path)
    for name, tensor in expected.channels.tensors().items():
        assert torch.equal(getattr(found.channels, name), tensor)
    assert found.about.startswith("3GPP TR 38.901 umi by sionna-no-rt")
    assert evaluation_states(replace(SCENARIO, channel_bank=str(path)), 2, 0).weights.shape == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=umi"], "out=PATH is missing"),
        (["out=bank.mat"], "bank.mat is not a channel bank; its name must end in .npz or .pt"),
        (["out=bank.pt", "model=rma"], "model cannot be 'rma'; it must be one of umi, uma"),
        (["out=bank.pt", "drops=1"], "drops cannot be 1; it must be a whole number at least 2"),
        (["out=bank.pt", "drop=9"], "drop is not a key. Did you mean drops"),
        (["out=bank.pt", "scenario.antennas=9"], "scenario.antennas is not a key"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_used_are_named(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, InputError), match=message):
        channels_command(arguments)
    assert list(tmp_path.iterdir()) == []


def test_without_sionna_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sionna.phy", None)
    with pytest.raises(InputError, match=r"Sionna, which is not installed: pip install sionna-no-rt"):
        channels_command(["drops=2", f"out={tmp_path / 'bank.pt'}"])
    assert list(tmp_path.iterdir()) == []


def test_the_example_of_the_page_makes_a_bank_to_train_on(tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[2] / "docs/channels.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(page.partition("```python\n")[2].partition("```")[0], {})
    scenario = FullDuplexConfig(channel_bank="measured.npz")
    assert FullDuplexEnv(scenario, 4, 0).problem.cells.stored(torch.device("cpu")).batch == 160
    state = evaluation_states(scenario, 40, 0)
    snr = 10 * state.channels.uplink.abs().square().mean().log10().item()
    assert snr == pytest.approx(-90.5 + 23 + 174 - 70 - 5, abs=0.5)
