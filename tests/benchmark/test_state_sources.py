"""Sources of states side by side (benchmarks/state_sources.py, benchmarks/traffic_states.py), at tiny sizes."""

from __future__ import annotations

import pytest
from conftest import read_csv

from d2rl.common.errors import ConfigError

TINY = ("seeds=1", "states=4", "updates=10", "evaluation.drops=2", "scenario.episode_length=3", "trainer.num_envs=2")
SMALL = ("ddpg.batch=2", "ddpg.critic_batch=2", "ddpg.replay=16", "network.width=4", "network.layers=1")


def test_queues_have_a_row_for_each_source(script, tmp_path):
    script("traffic_states").sources_command([*TINY, *SMALL, "only=same states,many", f"out={tmp_path}"])
    rows = read_csv(tmp_path / "states.csv")
    assert [(row["source"], row["states"]) for row in rows] == [("same states", "4"), ("many", "10000")]
    assert all(float(row["mean_delay"]) >= 0 for row in rows)


@pytest.mark.parametrize("name", ["state_sources", "traffic_states"])
def test_a_source_that_is_none_is_told(script, name):
    with pytest.raises(ConfigError, match=r"only=mix,guassian: guassian is no source; they are .*gaussian or senpnn"):
        script(name).sources_command(["only=mix,guassian"])
