"""Make a channel bank: ``d2rl-channels from=H.mat out=bank.npz``, or ``model=umi drops=1000 out=bank.pt``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from d2rl.commands.convert_channels import UNITS, bank_from_file
from d2rl.commands.one_site import at_one_site, first_of_all
from d2rl.common.errors import ConfigError, InputError, counted, typed
from d2rl.common.files import check_writable
from d2rl.config.defaults import FullDuplexConfig, option
from d2rl.config.key_use import refuse_unused
from d2rl.config.load import load
from d2rl.problems import check_config, load_config
from d2rl.problems.full_duplex.env import FullDuplexEnv
from d2rl.problems.full_duplex.scenario_bank import CELL, cell_of
from d2rl.wireless.array_files import ENDINGS
from d2rl.wireless.bank_file import check_name, save_bank
from d2rl.wireless.channel_bank import ChannelBank
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.propagation import LinkGains
from d2rl.wireless.tr38901 import UrbanChannels

AT_ONCE = 20  # drops; more are no faster
DROPS = 1000


@dataclass
class ChannelsConfig:
    """What d2rl-channels takes beside the keys of the scenario."""

    model: str = option("umi", "of TR 38.901: street canyon or macro cell", choices=("umi", "uma"))
    drops: int | None = option(
        None, "channel states, each with users of its own; null: 1000, or all that a file of states holds", low=2
    )
    site: bool = option(
        False, "one drop of users who stay about where they are: the drops are its states, in which phases change alone"
    )
    out: str | None = option(None, "file to write, .pt or .npz")
    seed: int = option(0, "of the drops", low=0)
    source: str | None = option(None, "from=FILE in its place, too: a file of channels to convert")
    map: str | None = option(None, "its arrays and their axes, such as downlink:H:KNB; null: guessed and shown")
    users: str | None = option(None, "K_D+K_U of a state of the file, such as 6+4; null: all, in the downlink alone")
    unit: str = option("auto", "of the file: over noise at full power, or gain of the propagation", choices=UNITS)
    snr: float | None = option(
        None, "dB, mean of |h|^2 at full power to which the file is scaled; null: as it is", low=-100, high=200
    )
    conjugate: bool = option(True, "a user receives h^T w of the file's h; false: h^H w")


FILE_KEYS = ("map", "users", "unit", "snr", "conjugate")


def channels_command(arguments: list[str]) -> None:
    """d2rl-channels from=H.mat out=bank.npz [map=downlink:H:KNB] [users=6+4] [snr=20] [scenario.key=value]
    d2rl-channels model=umi|uma drops=1000 out=bank.pt [seed=0] [conf=NAME] [scenario.key=value ...]

    Makes a bank for scenario.channel_bank: of a file that MATLAB, NumPy, xarray, DeepMIMO, QuaDRiGa or Sionna wrote, or
    drawn by 3GPP TR 38.901. Channels between users and self-interference that are lacking are drawn by the scenario's
    own models. docs/channels.md tells more.
    """
    for one in arguments:
        is_file = one.lower().endswith(ENDINGS)
        meant_from = one.partition("=")[0].strip(" -") == "from" or ("=" not in one and is_file)
        if meant_from and not one.startswith("from="):
            name = one.rpartition("=")[2].strip() if is_file else "FILE"
            raise ConfigError(f"{one!r} is not key=value: write from={name}, without blanks or dashes.")
    rest = [one for one in arguments if "." in one.partition("=")[0] or one.startswith("conf=")]
    own = [one for one in arguments if one not in rest]
    asked = load([f"source={one[5:]}" if one.startswith("from=") else one for one in own], ChannelsConfig)
    kept = ("model", "site") if asked.source else FILE_KEYS
    for one in own:
        if one.partition("=")[0] in kept:
            away = "with from=, whose channels are those of the file" if asked.source else "without from=FILE"
            raise ConfigError(f"{one} changes nothing {away}; leave it out.")
    for one in rest if asked.source else ():
        if one.partition("=")[0].removeprefix("scenario.") in CELL:
            raise ConfigError(
                f"{one} changes nothing with from=, whose file tells it; users=K_D+K_U says who is served."
            )
    refuse_unused("channels", rest)
    config = load_config(rest)
    check_config(config)
    if asked.out is None:
        raise ConfigError("out=PATH is missing: the file to write, such as out=bank.pt.")
    check_name(asked.out)
    check_writable(asked.out, asked.out, "choose another place", InputError)
    console = Console()

    def progress(steps: range) -> Iterable[int]:
        return track(steps, "reading" if asked.source else "drops", console=console, disable=len(steps) < 2)

    if asked.source:
        options = {name: getattr(asked, name) for name in ("users", "drops", "unit", "snr", "conjugate", "seed")}
        bank = bank_from_file(asked.source, asked.map, scenario=config.scenario, progress=progress, **options)
        if len(bank) < 2 * bank.slots:
            raise ConfigError(
                f"from={asked.source} holds one {'episode' if bank.slots > 1 else 'state'}; two are needed at least, "
                "one to train on and one kept for evaluation."
            )
    else:
        bank = urban_bank(config.scenario, asked.model, asked.drops or DROPS, asked.seed, progress, site=asked.site)
    save_bank(bank, asked.out)
    size = Path(asked.out).stat().st_size / 1e6
    training, evaluation = map(len, bank.split())
    idle = {"receive_antennas"} if not bank.channels.uplink_users else set()
    idle |= {"transmit_antennas"} if not bank.channels.downlink_users else set()
    keys = "".join(f" scenario.{key}={size}" for key, size in cell_of(bank.channels).items() if key not in idle)
    console.print(
        f"written: {asked.out} ({size:.1f} MB), {counted(training, 'state')} to train on and {evaluation} for "
        f"evaluation; use it with {typed('scenario.channel_bank', asked.out)}{keys if asked.source else ''}",
        markup=False,
        soft_wrap=True,
    )


def urban_bank(
    scenario: FullDuplexConfig,
    model: str,
    drops: int,
    seed: int,
    progress: Callable[[range], Iterable[int]] = iter,
    site: bool = False,
) -> ChannelBank:
    """A noise-normalised bank of TR 38.901 channels.

    Users stand as in the scenario. The uplink is drawn; the downlink is the transpose of what the downlink users'
    uplink would be. Cross channels and self-interference are the scenario's.

    :param model: ``umi`` or ``uma``
    :param drops: states
    :param progress: iterates over the range that it is given, and may show how far it is
    :param site: all drops are states of the first one's users, whose rays stay as they are while phases change
    :raises InputError: Sionna is not installed
    """
    antennas = max(scenario.transmit_antennas, scenario.receive_antennas)
    urban = UrbanChannels(model, antennas, scenario.carrier * 1e9, seed)
    cell = FullDuplexEnv(replace(scenario, channel_bank=None, stored_states=0), drops, seed)
    places = cell.state.positions
    assert places is not None  # drawn cells tell where their users are
    users, state = torch.cat(list(places), dim=1), cell.state
    if site:
        places, state = places.map(first_of_all), at_one_site(state)
        coefficients, gains = urban.draw(users[:1], slots=drops)
        gains = gains.mean(0).expand_as(gains)
    else:
        parts = [urban.draw(users[start : start + AT_ONCE]) for start in progress(range(0, drops, AT_ONCE))]
        coefficients, gains = (torch.cat(part) for part in zip(*parts, strict=True))
    over_noise = {name: 10 ** (db / 10) for name, db in cell.problem.cells.budget.over_noise_db().items()}
    k_d = scenario.downlink_users
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
        places,
        about=f"3GPP TR 38.901 {model} by sionna-no-rt {version('sionna-no-rt')}, seed {seed}, {scenario}",
    )
