"""What fits alone but not together in a run on the full-duplex cell."""

from __future__ import annotations

import math

from d2rl.common.errors import ConfigError
from d2rl.common.notices import notice_once
from d2rl.config.defaults import Config, FullDuplexConfig
from d2rl.problems.full_duplex.cell_sizes import check_loads
from d2rl.problems.full_duplex.scenario_bank import scenario_bank
from d2rl.problems.full_duplex.simulator import evaluation_states
from d2rl.wireless.fairness import common_rate

TRIED = 64  # drops on which a minimum is tried


def check_cell(config: Config) -> None:
    """Refuse it. :raises ConfigError: names both keys"""
    c = config.scenario
    if c.minimum_distance >= c.cell_radius:
        raise ConfigError(
            f"scenario.minimum_distance ({c.minimum_distance:g}) must be below scenario.cell_radius "
            f"({c.cell_radius:g}), both in m."
        )
    if not c.downlink_users + c.uplink_users:
        raise ConfigError(
            "scenario.downlink_users=0 and scenario.uplink_users=0 leave nobody to serve; set one of them to 1 or more."
        )
    if c.objective in ("minimum", "max_min") and not (c.priority_direction or c.priority_user):
        raise ConfigError(
            f"scenario.objective={c.objective} asks a policy under other priorities, which it knows only from training "
            "with them; set scenario.priority_user or scenario.priority_direction above 0, such as 0.3."
        )
    if (c.objective == "minimum") != (c.minimum_rate > 0):
        raise ConfigError(
            f"scenario.objective={c.objective} and scenario.minimum_rate={c.minimum_rate:g} do not fit together; a "
            "minimum needs objective=minimum and a minimum_rate above 0."
        )
    if c.fixed_drop is not None and c.channel_bank:
        raise ConfigError(
            f"scenario.fixed_drop={c.fixed_drop} says where users stay, which the states of "
            f"scenario.channel_bank={c.channel_bank} settle; set one of the two to null."
        )
    if config.network.critic == "executed" and c.head != "beamforming":
        raise ConfigError(
            f"network.critic=executed is of scenario.head=beamforming, whose numbers the power limit changes, and "
            f"scenario.head={c.head} has no such numbers; set network.critic=numbers."
        )
    if c.antenna_power is not None and not c.downlink_users:
        raise ConfigError(
            f"scenario.antenna_power={c.antenna_power:g} limits what the base station transmits, and "
            "scenario.downlink_users=0 leaves it nobody to transmit to; set antenna_power to null."
        )
    link_weights(config)
    if config.evaluation.slots:
        check_schedule(c)
    check_loads(config)


def check_schedule(scenario: FullDuplexConfig) -> None:
    """Refuse a schedule in time on channels that do not move. :raises ConfigError: a channel bank"""
    if scenario.channel_bank:
        raise ConfigError(
            "evaluation.slots follows cells through time, which the states of scenario.channel_bank do not show; set "
            "evaluation.slots=0, or scenario.channel_bank=null for drawn channels."
        )


def read_files(config: Config) -> None:
    """Read what the scenario names. :raises ConfigError: it cannot be used"""
    if config.scenario.channel_bank:
        scenario_bank(config.scenario)
    if config.scenario.objective == "minimum":
        check_minimum(config)


def check_minimum(config: Config) -> None:
    """Say in how many of some drops the minimum rate is out of reach, and by how much; refuse one that always is.

    :raises ConfigError: no drop can have it
    """
    minimum, drops = config.scenario.minimum_rate, min(TRIED, config.evaluation.drops)
    state = evaluation_states(config.scenario, drops, config.evaluation.seed)
    possible = common_rate(state.channels, state.weights)
    missed = int((possible < minimum).sum())
    told = (
        f"scenario.minimum_rate={minimum:g} bit/s/Hz cannot be given to all links of {missed} of {len(possible)} "
        f"drops, whatever is decided: half of these drops can have {float(possible.median()):.2f} at most, the worst "
        f"{float(possible.min()):.2f}"
    )
    if missed == len(possible):
        raise ConfigError(f"{told}, the best {float(possible.max()):.2f}. Lower it, or serve fewer users.")
    if missed:
        notice_once(f"{told}.")


def link_weights(config: Config) -> list[float] | None:
    """``evaluation.weights``, one priority for every link; None without.

    :raises ConfigError: not that many numbers, negative or not finite ones, or none above 0
    """
    text, links = config.evaluation.weights, config.scenario.downlink_users + config.scenario.uplink_users
    if text is None:
        return None
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"evaluation.weights={text} must be numbers with commas, such as 1,1,2") from None
    if len(weights) != links:
        raise ConfigError(f"evaluation.weights={text} needs {links} numbers, one per link, got {len(weights)}.")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ConfigError(f"evaluation.weights={text} must be finite, none negative.")
    if not any(weights):
        raise ConfigError(f"evaluation.weights={text} must not all be 0: no decision would be better than another.")
    return weights
