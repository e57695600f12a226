"""A benchmark on a Ray cluster of two nodes, one of which is lost."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from d2rl.benchmark.command import benchmark_command

ray = pytest.importorskip("ray", reason="the extra d2rl[ray] is not installed")
cluster_utils = pytest.importorskip("ray.cluster_utils")

MATRIX = """
baseline: ddpg
ours: full
seeds: 1
latency: false
launcher: ray
set: [trainer.accelerator=cpu, trainer.epochs=1, trainer.updates_per_epoch=4, trainer.updates_per_step=2,
      trainer.num_envs=4, ddpg.batch=4, evaluation.drops=4, network.width=8]
variants:
  ddpg: {conf: ddpg}
  full: []
"""
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200, "health_check_failure_threshold": 5}


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes of this machine with a core each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": QUICK}
    nodes = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes.second = nodes.add_node(num_cpus=1)
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


def begun(out: Path) -> list[Path]:
    """Folders of the cells that run."""
    return [path.parent for path in out.glob("cells/*/log.txt")]


def test_cells_of_a_node_that_is_killed_begin_anew_on_the_other(cluster, tmp_path, capsys):
    (tmp_path / "tiny.yaml").write_text(MATRIX)
    out, witnessed = tmp_path / "out", []

    def kill() -> None:
        end = time.monotonic() + 600
        while len(found := begun(out)) < 2 and time.monotonic() < end:
            time.sleep(0.05)
        for folder in found:
            (folder / "witness").touch()
        witnessed.extend(found)
        cluster.remove_node(cluster.second, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    benchmark_command([f"conf={tmp_path / 'tiny.yaml'}", f"out={out}"])
    killer.join()
    assert len(witnessed) == 2
    assert len(list(out.glob("cells/*/witness"))) == 1  # the other cell's folder was emptied when it began anew
    assert sorted(path.parent.name for path in out.glob("cells/*/done.json")) == ["ddpg-default-0", "full-default-0"]
    for path in out.glob("cells/*/eval.json"):
        assert json.loads(path.read_text())["policies"]["d2rl"]["sum_rate"] > 0
    assert "failed with status" not in capsys.readouterr().out
