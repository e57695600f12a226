"""Which kind of arrivals each link has, from the text of ``traffic.arrivals``."""

from __future__ import annotations

from d2rl.common.errors import ConfigError, counted, meant
from d2rl.config.defaults import FullDuplexConfig

KINDS = ("on_off", "poisson", "periodic", "full_buffer", "trace")
FORM = "write KIND or DOWNLINK+UPLINK, each one kind or one for each user with commas, such as on_off+periodic"


def kinds_of(text: str, scenario: FullDuplexConfig) -> tuple[str, ...]:
    """The kind of every link of a cell, K of them, downlink first.

    :param text: ``traffic.arrivals``: KIND for all links, or DOWNLINK+UPLINK, each of them one kind, or one for each
        of its users with commas
    :param scenario: the cell
    :raises ConfigError: what is no kind, or not as many as there are users
    """
    asked = f"traffic.arrivals={text}"
    parts = [[kind.strip() for kind in part.split(",")] for part in text.split("+")]
    for kind in (kind for part in parts for kind in part):
        if kind not in KINDS:
            raise ConfigError(
                f"{asked}: {kind!r} is no kind of arrivals; there are {', '.join(KINDS)}.{meant(kind, KINDS)}"
            )
    if len(parts) > 2 or (len(parts) == 1 and len(parts[0]) > 1):
        raise ConfigError(f"{asked} does not tell downlink from uplink; {FORM}.")
    counts = {"downlink": scenario.downlink_users, "uplink": scenario.uplink_users}
    kinds: list[str] = []
    for (direction, users), part in zip(counts.items(), [parts[0], parts[-1]], strict=True):
        if len(part) not in (1, users):
            raise ConfigError(
                f"{asked} has {len(part)} {direction} kinds, and a cell of {counts['downlink']}+{counts['uplink']} has "
                f"{counted(users, 'user')} there; write one for all of them, or one for each."
            )
        kinds += part * users if len(part) == 1 else part
    return tuple(kinds)
