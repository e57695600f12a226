"""``kill -9`` at random moments of a run that is resumed each time, and the finished run beside an uninterrupted one.

    python tests/faults/kill.py [kills=20] [writes=7] [seed=0] [epochs=64] [out=DIR]

``writes`` of the kills come while a checkpoint is being written; the others at a time drawn uniformly between half of
what a process takes to its first checkpoint and three epochs after that, or at the third checkpoint if that comes
first, so that loading, resuming and training are all met. Prints a table and ends with status 1 if a checkpoint was
not whole or a bit differs.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from runs import equal, finish, metrics, start, trained

from d2rl.training.checkpoint import load_checkpoint

POLL = 0.0005  # seconds
MOST = 3  # checkpoints between two kills, so that a run of a given length is long enough


@dataclass
class Kill:
    """One kill: seconds after the start of its process, what it met, and the update of the last complete checkpoint."""

    seconds: float
    met: str
    update: int


def unfinished(run: Path) -> list[Path]:
    """Files that were being written."""
    return [*run.glob(".*.unfinished"), *run.glob("checkpoints/.*.unfinished")]


def kill_during_a_write(process: subprocess.Popen, run: Path) -> None:
    """Wait for a checkpoint that this process has begun and not finished, and kill."""
    while process.poll() is None:
        if any((run / "checkpoints").glob(f".*.ckpt.{process.pid}.unfinished")):
            process.kill()
        time.sleep(POLL)


def kill_after(process: subprocess.Popen, run: Path, seconds: float) -> None:
    """Kill after some time, but not later than at the third checkpoint that the process writes."""
    last, deadline, written = run / "checkpoints/last.ckpt", time.monotonic() + seconds, 0
    before = last.stat().st_mtime_ns
    while process.poll() is None:
        now = last.stat().st_mtime_ns
        written, before = written + (now != before), now
        if written == MOST or time.monotonic() > deadline:
            process.kill()
        time.sleep(POLL)


def chain(run: Path, plan: tuple[str, ...], moments: list[float | None], cwd: Path) -> list[Kill]:
    """Begin a run, kill it at each of the moments (None: during a write), resume it each time, and let it finish.

    :raises RuntimeError: a process ended in another way, or a checkpoint was not whole
    """
    kills = []
    began, process = time.monotonic(), start(*plan, f"run_dir={run}", cwd=cwd)
    while not (run / "checkpoints/last.ckpt").exists() and process.poll() is None:
        time.sleep(POLL)
    for moment in moments:
        old = set(unfinished(run))
        kill_during_a_write(process, run) if moment is None else kill_after(process, run, moment)
        seconds = time.monotonic() - began
        status, out, err = finish(process)
        if status != -9:
            raise RuntimeError(f"ended with {status} before it was killed:\n{out[-500:]}\n{err[-2000:]}")
        updates = {path.name: load_checkpoint(path)["d2rl"]["updates"] for path in run.glob("checkpoints/*.ckpt")}
        left = [re.sub(r"\.\d+\.unfinished", "", path.name)[1:] for path in unfinished(run) if path not in old]
        met = f"writing {left[0]}" if left else "training" if "run directory:" in out else "loading"
        kills.append(Kill(seconds, met, updates["last.ckpt"]))
        began, process = time.monotonic(), start(f"resume={run}", cwd=cwd)
    status, out, err = finish(process)
    if status != 0:
        raise RuntimeError(f"the last part ended with {status}:\n{err[-2000:]}")
    return kills


def differing(run: Path, whole: Path) -> list[str]:
    """What is not the same to the last bit in two finished runs."""
    found = [] if metrics(run) == metrics(whole) else ["metrics.csv"]
    return found + [
        name
        for name in ("last.ckpt", "best.ckpt")
        if not equal(trained(run / "checkpoints" / name), trained(whole / "checkpoints" / name))
    ]


def main(arguments: list[str]) -> int:
    """The whole experiment; the exit status."""
    given = dict(argument.split("=", 1) for argument in arguments)
    kills, writes, epochs = (int(given.get(key, n)) for key, n in (("kills", 20), ("writes", 7), ("epochs", 64)))
    draw = random.Random(int(given.get("seed", 0)))
    out = Path(given.get("out") or tempfile.mkdtemp())
    plan = ("conf=smoke", f"trainer.epochs={epochs}", "trainer.updates_per_epoch=20", "trainer.updates_per_step=10")
    plan += ("stages.state=3", "trainer.progress=false", "trainer.accelerator=cpu", "logger.mode=disabled")

    began = time.monotonic()
    process = start(*plan, f"run_dir={out / 'whole'}", cwd=out)
    while not (out / "whole/checkpoints/last.ckpt").exists() and process.poll() is None:
        time.sleep(POLL)
    startup = time.monotonic() - began
    status, _, err = finish(process, timeout=3600)
    if status:
        raise RuntimeError(err)
    epoch = (time.monotonic() - began - startup) / epochs
    moments: list[float | None] = [None] * writes + [
        draw.uniform(startup / 2, startup + 3 * epoch) for _ in range(kills - writes)
    ]
    draw.shuffle(moments)
    print(f"start to first checkpoint {startup:.1f} s, an epoch {epoch:.2f} s, {epochs} epochs of 20 updates\n")
    print("| kill | seconds after the start | met | goes on from update |\n|---|---|---|---|")
    for number, kill in enumerate(chain(out / "killed", plan, moments, out), 1):
        print(f"| {number} | {kill.seconds:.2f} | {kill.met} | {kill.update} |")
    size = (out / "whole/checkpoints/last.ckpt").stat().st_size
    wrong = differing(out / "killed", out / "whole")
    print(f"\ncheckpoint {size / 1e6:.1f} MB; different from the uninterrupted run: {', '.join(wrong) or 'nothing'}")
    if "out" not in given:
        shutil.rmtree(out)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
