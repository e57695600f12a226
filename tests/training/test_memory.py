"""Memory that the replay needs, before anything is begun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.commands.train_eval import train_command
from d2rl.common.errors import ConfigError
from d2rl.training.memory import available_bytes, check_memory, replay_bytes

CPU = torch.device("cpu")


@pytest.mark.parametrize("change", ["ddpg.gamma=0.5", "reward.case=designed_gdm", "action.candidates=3", "seed=0"])
def test_what_is_told_is_what_a_full_replay_takes(tiny, fit, change):
    agent = D2RL(tiny(change, "ddpg.replay=24"))
    fit(agent)
    assert len(agent.replay) == 24
    taken = sum(tensor.numel() * tensor.element_size() for tensor in agent.replay.storage.values())
    assert replay_bytes(agent.config) == taken


def test_it_grows_with_the_replay_and_a_million_is_told_in_words(tiny):
    small, large = tiny("ddpg.replay=1000"), tiny("ddpg.replay=1000000")
    assert replay_bytes(large) == 1000 * replay_bytes(small)
    text = check_memory(small, CPU)
    assert text.startswith("replay: 1,000 states, 0.00 GiB (")


def test_a_replay_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"ddpg.replay=1000000000 needs [\d.]+ GiB .* GiB are free; what fits is at most"
    ):
        train_command(["ddpg.replay=1000000000", "run_dir=run"])
    assert list(tmp_path.iterdir()) == []


def test_the_most_that_is_said_to_fit_fits(tiny, monkeypatch):
    monkeypatch.setattr("d2rl.training.memory.available_bytes", lambda device: 1_000_000)
    with pytest.raises(ConfigError) as caught:
        check_memory(tiny("ddpg.replay=1000000"), CPU)
    most = int(str(caught.value).split("at most ")[1].split()[0].replace(",", ""))
    check_memory(tiny(f"ddpg.replay={most}"), CPU)
    with pytest.raises(ConfigError):
        check_memory(tiny(f"ddpg.replay={most + 1}"), CPU)


def test_what_is_free_is_the_least_of_what_the_machine_and_the_control_group_leave(monkeypatch):
    files = {
        "/proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n",
        "/sys/fs/cgroup/memory.max": "max",
        "/sys/fs/cgroup/memory.current": f"{4 << 30}",
        "/sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {1 << 30}\n",
    }

    def read(path: str) -> str:
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    monkeypatch.setattr("d2rl.training.memory._read", read)
    assert available_bytes(CPU) == 8 << 30
    files["/sys/fs/cgroup/memory.max"] = f"{6 << 30}"
    assert available_bytes(CPU) == 3 << 30  # files in the cache are given up when memory is needed


def test_this_machine_has_memory_to_give():
    assert 1 << 20 < available_bytes(CPU) <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_a_limit_of_the_process_counts():
    script = (
        "import resource, torch; from d2rl.training.memory import available_bytes; limit = 1 << 40;"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit)); a = available_bytes(torch.device('cpu'));"
        "pages = int(open('/proc/self/statm').read().split()[0]);"
        "limit = (pages << 12) + (1 << 28); resource.setrlimit(resource.RLIMIT_AS, (limit, limit));"
        "b = available_bytes(torch.device('cpu')); print(a > b > 0, b <= 1 << 28)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
