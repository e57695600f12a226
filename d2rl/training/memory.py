"""Whether a run's replay fits into memory, told before the run begins."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from d2rl.algorithm.agent import D2RL
from d2rl.common.errors import ConfigError, counted
from d2rl.config.defaults import Config
from d2rl.problems import make_problems
from d2rl.problems.base import stream
from d2rl.training.footprint import GIB, UNKNOWN, installed_bytes

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

CGROUPS = (  # limit and use of a control group, versions 2 and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def replay_bytes(config: Config) -> int:
    """Size of the filled replay of every load, from the transitions that one real interaction makes."""
    cells, stored = config.trainer.num_envs, 0
    for problem in make_problems(config):
        probe = D2RL(replace(config, ddpg=replace(config.ddpg, replay=cells)), [problem])
        probe.generator = torch.Generator().manual_seed(stream("memory"))
        probe.interact()
        stored += sum(tensor.numel() * tensor.element_size() for tensor in probe.replay.storage.values())
    return stored * config.ddpg.replay // cells


def available_bytes(device: torch.device) -> int:
    """Memory that is free on the device, within the limits that this process has."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [_free_in_the_machine()]
    for most, used, stat in CGROUPS:
        with suppress(OSError, ValueError):  # no such group, or "max"
            free.append(int(_read(most)) - int(_read(used)) + _entry(_read(stat), "inactive_file"))
    if resource is not None and (limit := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        with suppress(OSError):  # macOS has no /proc
            free.append(limit - int(_read("/proc/self/statm").split()[0]) * resource.getpagesize())
    return max(0, min(free))


def check_memory(config: Config, device: torch.device) -> str:
    """A line that says what the replay needs.

    A checkpoint holds a copy of the replay while it is written, in the machine's memory.

    :raises ConfigError: it does not fit
    """
    need, host = replay_bytes(config), torch.device("cpu")
    if device.type == "cuda":
        _fits(config, need, available_bytes(device), "of GPU memory")
        free = _fits(config, need, available_bytes(host), "of memory for its copy in checkpoints")
    else:
        free = _fits(config, 2 * need, available_bytes(host), "of memory with its copy in checkpoints")
    left = f"{free / GIB:.1f} GiB are free" if free < UNKNOWN else "how much is free is unknown here"
    return f"replay: {counted(config.ddpg.replay, 'state')}, {need / GIB:.2f} GiB ({left})"


def _fits(config: Config, need: int, free: int, what: str) -> int:
    if need > free:
        most = config.ddpg.replay * free // need
        raise ConfigError(
            f"ddpg.replay={config.ddpg.replay} needs {need / GIB:.1f} GiB {what}, and {free / GIB:.1f} GiB are free; "
            f"at most {counted(most, 'state')} can be kept."
        )
    return free


def _free_in_the_machine() -> int:
    with suppress(OSError):
        return 1024 * _entry(_read("/proc/meminfo"), "MemAvailable:")
    return installed_bytes()


def _read(path: str) -> str:
    return Path(path).read_text()


def _entry(table: str, name: str) -> int:
    """The number behind a name; 0 where it is not."""
    return next((int(line.split()[1]) for line in table.splitlines() if line.split()[:1] == [name]), 0)
