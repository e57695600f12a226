"""The channel bank of a scenario: read once, checked against the cell, noise-normalised, split."""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from d2rl.common.errors import ConfigError, named_by
from d2rl.common.notices import notice_once
from d2rl.config.defaults import FullDuplexConfig
from d2rl.wireless.bank_file import load_bank
from d2rl.wireless.channel_bank import ChannelBank
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.propagation import LinkBudget, thermal_noise

CELL = ("downlink_users", "uplink_users", "transmit_antennas", "receive_antennas")
BUDGET = ("bandwidth", "noise_density", "noise_figure_downlink", "noise_figure_uplink", "bs_power", "user_power")
# keys that say how channels are drawn, which a bank has in their place
DRAWING = (
    *("cell_radius", "minimum_distance", "path_loss", "self_interference", "self_interference_rician"),
    *("rician", "speed", "carrier", "slot", "episode_length"),
)


def link_budget(config: FullDuplexConfig) -> LinkBudget:
    """Powers, noise and path loss of a scenario."""
    return LinkBudget(
        bs_power=config.bs_power,
        user_power=config.user_power,
        noise_downlink=thermal_noise(config.bandwidth, config.noise_density, config.noise_figure_downlink),
        noise_uplink=thermal_noise(config.bandwidth, config.noise_density, config.noise_figure_uplink),
        self_interference=config.self_interference,
        path_loss=config.path_loss,
    )


def scenario_bank(config: FullDuplexConfig) -> ChannelBank:
    """The whole bank of ``scenario.channel_bank``, noise-normalised.

    :raises ConfigError: a file that cannot be used, a bank of another cell, or too small to be split
    """
    path = Path(str(config.channel_bank)).expanduser()
    with named_by("scenario.channel_bank"):
        bank = _read(path, *_version(path))
    bank = bank.with_idle_antennas(config.transmit_antennas, config.receive_antennas)
    found, asked = cell_of(bank.channels), cell_of(config)
    if found != asked:
        remedy = " ".join(f"scenario.{key}={size}" for key, size in found.items() if size != asked[key])
        raise ConfigError(
            f"scenario.channel_bank={config.channel_bank} holds {described(found)}, the scenario has "
            f"{described(asked)}; set {remedy}, or give a bank of this cell."
        )
    if len(bank) < 2 * bank.slots:
        raise ConfigError(
            f"scenario.channel_bank={config.channel_bank} holds one {'episode' if bank.slots > 1 else 'state'}; two "
            "are needed at least, one to train on and one kept for evaluation."
        )
    for part, use in zip(bank.split(), ("to train on", "kept for evaluation"), strict=True):
        if not (bool(part.channels.downlink.any()) or bool(part.channels.uplink.any())):
            raise ConfigError(
                f"scenario.channel_bank={config.channel_bank}: downlink and uplink are 0 in all states {use}, so that "
                "every policy does as well as the others; remove those states, or put them elsewhere in the file."
            )
    _notice_void(config, bank.noise_normalised)
    return bank.normalised(link_budget(config))


def cell_of(source: FullDuplexConfig | ChannelState) -> dict[str, int]:
    """Users and antennas of a scenario or of channels, by the scenario's keys."""
    return {key: getattr(source, key) for key in CELL}


def described(cell: dict[str, int]) -> str:
    """The same in words."""
    return "{} + {} users and {} + {} antennas".format(*cell.values())


def _notice_void(config: FullDuplexConfig, noise_normalised: bool) -> None:
    """Say which of the scenario's changes a bank makes void."""
    defaults, void = asdict(FullDuplexConfig()), (*DRAWING, *(BUDGET if noise_normalised else ()))
    changed = [f"scenario.{key}={getattr(config, key)}" for key in void if getattr(config, key) != defaults[key]]
    if changed:
        notice_once(
            f"scenario.channel_bank={config.channel_bank} decides the channels: {', '.join(changed)} changes nothing."
        )


def _version(path: Path) -> tuple[int, int]:
    """What changes when the file does."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=2)
def _read(path: Path, changed: int, size: int) -> ChannelBank:
    return load_bank(path)
