"""What fits alone but not together in a run on the full-duplex cell."""

from __future__ import annotations

import math

from d2rl.common.errors import ConfigError, InputError
from d2rl.config.defaults import Config, FullDuplexConfig
from d2rl.problems.full_duplex.cell_sizes import check_loads
from d2rl.problems.full_duplex.scenario_bank import scenario_bank


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


def check_files(config: Config) -> None:
    """Read what the scenario names. :raises ConfigError: it cannot be used"""
    if config.scenario.channel_bank:
        try:
            scenario_bank(config.scenario)
        except InputError as error:
            raise ConfigError(f"scenario.channel_bank: {error.args[0]}") from None


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
