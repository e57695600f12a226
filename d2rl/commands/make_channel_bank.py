"""Precompute a channel bank: ``python -m d2rl.channels model=umi|uma drops=1000 out=bank.pt [seed=0] [key=value]``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from d2rl.common.errors import ConfigError, counted
from d2rl.config.defaults import FullDuplexConfig, option
from d2rl.config.key_use import refuse_unused
from d2rl.config.load import load
from d2rl.problems import check_config, load_config
from d2rl.problems.full_duplex.env import FullDuplexEnv
from d2rl.wireless.bank_file import check_place, save_bank
from d2rl.wireless.channel_bank import ChannelBank
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.propagation import LinkGains
from d2rl.wireless.tr38901 import UrbanChannels

AT_ONCE = 20  # drops; more are no faster


@dataclass
class ChannelsConfig:
    """What python -m d2rl.channels takes beside the keys of the scenario."""

    model: str = option("umi", "of TR 38.901: street canyon or macro cell", choices=("umi", "uma"))
    drops: int = option(1000, "channel states, each with users of its own", low=2)
    out: str | None = option(None, "file to write, .pt or .npz")
    seed: int = option(0, "of the drops", low=0)


def channels_command(arguments: list[str]) -> None:
    """python -m d2rl.channels model=umi|uma drops=1000 out=bank.pt [seed=0] [conf=NAME] [scenario.key=value ...]

    Draws a bank of 3GPP TR 38.901 channels for scenario.channel_bank. TR 38.901 has no channels between users and none
    of self-interference: these are drawn by the scenario's own models. docs/channels.md tells more.
    """
    rest = [one for one in arguments if "." in one.partition("=")[0] or one.startswith("conf=")]
    asked = load([one for one in arguments if one not in rest], ChannelsConfig)
    refuse_unused("channels", rest)
    config = load_config(rest)
    check_config(config)
    if asked.out is None:
        raise ConfigError("out=PATH is missing: the file to write, such as out=bank.pt.")
    check_place(asked.out)
    console = Console()
    bank = urban_bank(
        config.scenario, asked.model, asked.drops, asked.seed, lambda steps: track(steps, "drops", console=console)
    )
    save_bank(bank, asked.out)
    size = Path(asked.out).stat().st_size / 1e6
    training, evaluation = map(len, bank.split())
    console.print(
        f"written: {asked.out} ({size:.1f} MB), {counted(training, 'state')} to train on and {evaluation} for "
        f"evaluation; use it with scenario.channel_bank={asked.out}",
        markup=False,
        soft_wrap=True,
    )


def urban_bank(
    scenario: FullDuplexConfig,
    model: str,
    drops: int,
    seed: int,
    progress: Callable[[range], Iterable[int]] = iter,
) -> ChannelBank:
    """A noise-normalised bank of TR 38.901 channels.

    Users stand as in the scenario. The uplink is drawn; the downlink is the transpose of what the downlink users'
    uplink would be. Cross channels and self-interference are the scenario's.

    :param model: ``umi`` or ``uma``      :param drops: states
    :param progress: iterates over the range that it is given, and may show how far it is
    :raises InputError: Sionna is not installed
    """
    antennas = max(scenario.transmit_antennas, scenario.receive_antennas)
    urban = UrbanChannels(model, antennas, scenario.carrier * 1e9, seed)
    cell = FullDuplexEnv(replace(scenario, channel_bank=None, stored_states=0), drops, seed)
    places = cell.state.positions
    assert places is not None  # drawn cells tell where their users are
    users = torch.cat(list(places), dim=1)
    parts = [urban.draw(users[start : start + AT_ONCE]) for start in progress(range(0, drops, AT_ONCE))]
    coefficients, gains = (torch.cat(part) for part in zip(*parts, strict=True))
    over_noise = {name: 10 ** (db / 10) for name, db in cell.problem.cells.budget.over_noise_db().items()}
    k_d, state = scenario.downlink_users, cell.state
    downlink = coefficients[:, :k_d, : scenario.transmit_antennas].conj().resolve_conj()
    uplink = coefficients[:, k_d:, : scenario.receive_antennas]
    return ChannelBank(
        ChannelState(
            over_noise["downlink"] ** 0.5 * downlink,
            over_noise["uplink"] ** 0.5 * uplink,
            state.channels.cross,
            state.channels.self_interference,
        ),
        LinkGains(
            over_noise["downlink"] * gains[:, :k_d],
            over_noise["uplink"] * gains[:, k_d:],
            state.gains.cross,
            state.gains.self_interference,
        ),
        torch.ones(drops, scenario.downlink_users + scenario.uplink_users),
        (places.downlink, places.uplink),
        about=f"3GPP TR 38.901 {model} by sionna-no-rt {version('sionna-no-rt')}, seed {seed}, {scenario}",
    )
