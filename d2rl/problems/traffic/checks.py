"""What fits alone but not together in a run on cells with queues."""

from __future__ import annotations

from d2rl.common.errors import ConfigError
from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.traffic.kinds import kinds_of
from d2rl.problems.traffic.settings import TrafficConfig


def check_traffic(traffic: TrafficConfig, scenario: FullDuplexConfig) -> None:
    """Refuse it. :raises ConfigError: names the keys"""
    t = traffic
    low, high = t.load_low or t.load, t.load_high or t.load
    if low > high:
        raise ConfigError(f"traffic.load_low ({low:g}) must be at most traffic.load_high ({high:g}).")
    kinds = kinds_of(t.arrivals, scenario)
    if ("trace" in kinds) != (t.trace is not None):
        remedy = "name the file" if t.trace is None else "set traffic.arrivals=trace, or traffic.trace=null"
        raise ConfigError(f"traffic.arrivals={t.arrivals}, but traffic.trace={t.trace or 'null'}; {remedy}.")
    if "on_off" in kinds and t.on_share < 1 and t.burst * (1 - t.on_share) < t.on_share:
        raise ConfigError(
            f"traffic.burst={t.burst:g} is too short for traffic.on_share={t.on_share:g}: off periods would have to be "
            f"shorter than one slot. Set traffic.burst to {t.on_share / (1 - t.on_share):.3g} at least."
        )
    for direction in ("downlink", "uplink"):
        deadline = getattr(t, f"{direction}_deadline")
        if deadline is not None and deadline >= t.ages:
            raise ConfigError(
                f"traffic.{direction}_deadline ({deadline}) must be below traffic.ages ({t.ages}), the slots for which "
                "the age of a bit is followed."
            )
    if scenario.feedback != FullDuplexConfig().feedback:
        raise ConfigError(
            f"scenario.feedback={scenario.feedback} is of rates without queues; set "
            f"traffic.feedback={scenario.feedback} instead."
        )
    if scenario.objective != FullDuplexConfig().objective:
        raise ConfigError(
            f"scenario.objective={scenario.objective} is of the rates of one slot, which problem=traffic does not "
            "maximise; leave it out, and see traffic.minimum_rate."
        )
    if scenario.antenna_power is not None:
        raise ConfigError(
            f"scenario.antenna_power={scenario.antenna_power:g} is a limit that the schedulers of problem=traffic do "
            "not keep; set it to null."
        )
    check_stored(traffic, scenario)


def check_stored(traffic: TrafficConfig, scenario: FullDuplexConfig) -> None:
    """Refuse a fixed set of channels that cells cannot live in. :raises ConfigError: names the keys"""
    key, off = ("channel_bank", "null") if scenario.channel_bank else ("stored_states", 0)
    if not getattr(scenario, key):
        return
    named = f"scenario.{key}={getattr(scenario, key)}"
    if traffic.csi_delay:
        raise ConfigError(
            f"{named} shows another state in every slot, so that estimates of traffic.csi_delay={traffic.csi_delay} "
            f"slots ago say nothing; set traffic.csi_delay=0, or scenario.{key}={off}."
        )
    if scenario.channel_bank and scenario.csi_error:
        raise ConfigError(
            f"scenario.csi_error={scenario.csi_error:g} asks for conditional means of the channels, which those of "
            f"{named} do not tell; set scenario.csi_error=0."
        )
    if not scenario.channel_bank and scenario.fixed_drop is None:
        raise ConfigError(
            f"{named} shows users in other places in every slot, and queues are of users who stay; set "
            "scenario.fixed_drop=0, or scenario.stored_states=0."
        )
