"""Choices for the cell that exclude each other are refused by one message."""

from __future__ import annotations

import pytest

from d2rl.algorithm.agent import D2RL
from d2rl.common.errors import ConfigError
from d2rl.problems import check_config


def test_users_cannot_stay_in_a_place_that_a_bank_settles(tiny):
    with pytest.raises(ConfigError, match=r"scenario\.fixed_drop=3 .* scenario\.channel_bank=bank\.pt settle; set one"):
        check_config(tiny("scenario.fixed_drop=3", "scenario.channel_bank=bank.pt"))


def test_only_the_beamforming_head_has_a_power_limit_for_the_critic_to_see(tiny):
    with pytest.raises(ConfigError, match=r"has no such numbers; set network\.critic=numbers"):
        check_config(tiny("network.critic=executed"))


def test_only_a_plain_network_standardises_its_inputs(tiny):
    with pytest.raises(ConfigError, match=r"this run has link_graph; set network\.standardise=false"):
        D2RL(tiny("network.standardise=true"))
