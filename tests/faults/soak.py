"""A long run: does its memory stay flat, and its speed?

    python tests/faults/soak.py [minutes=30] [out=DIR] [key=value ...]

Trains ``conf=full_duplex`` (or what the keys say) without end, looks at the resident memory of the process every
second and at the processor time per update in metrics.csv, ends the run by SIGTERM and prints a report as JSON.
Ends with status 1 when memory grew by more than 2 % between the second and the last fifth of the time, when the
last fifth is slower than the second by more than three standard errors and 5 %, or when SIGTERM left no checkpoint.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from runs import finish, start

from d2rl.report.learning_curve import read_metrics
from d2rl.training.checkpoint import load_checkpoint

ENDLESS = ("trainer.epochs=1000000", "trainer.progress=false", "logger.mode=offline")
MIB = 1 << 20


def resident(process: subprocess.Popen) -> int:
    """Bytes of memory that the process has in use."""
    fields = Path(f"/proc/{process.pid}/status").read_text().split("VmRSS:")
    return int(fields[1].split()[0]) * 1024 if len(fields) > 1 else 0


def watch(run: Path, arguments: list[str], seconds: float) -> tuple[list[int], tuple[int, str, str]]:
    """Resident memory at every second of training, and how the process ended when it was asked to."""
    process, sizes = start("conf=full_duplex", *ENDLESS, *arguments, f"run_dir={run}", cwd=run.parent), []
    while not (run / "metrics.csv").exists() and process.poll() is None:
        time.sleep(0.1)
    began = time.monotonic()
    while time.monotonic() - began < seconds and process.poll() is None:
        sizes.append(resident(process))
        time.sleep(1)
    process.send_signal(signal.SIGTERM)
    return sizes, finish(process)


def fifths(values: list[float]) -> tuple[list[float], list[float]]:
    """The second and the last fifth."""
    part = len(values) // 5
    return values[part : 2 * part], values[-part:]


def report(run: Path, sizes: list[int]) -> dict:
    """Memory and speed, early and late."""
    points = read_metrics(run / "metrics.csv", "charts/updates", "time/total")
    costs = [1e3 * (b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(points)]
    (early, late), (before, after) = fifths(sizes), fifths(costs)
    error = (statistics.variance(before) / len(before) + statistics.variance(after) / len(after)) ** 0.5
    return {
        "minutes": len(sizes) / 60,
        "updates": int(points[-1][0]),
        "resident_mib": {"early": statistics.median(early) / MIB, "late": statistics.median(late) / MIB},
        "resident_mib_by_minute": [round(size / MIB, 1) for size in sizes[::60]],
        "memory_growth": statistics.median(late) / statistics.median(early) - 1,
        "ms_per_update": {"early": statistics.mean(before), "late": statistics.mean(after), "standard_error": error},
        "slowdown": statistics.mean(after) / statistics.mean(before) - 1,
        "slowdown_error": error / statistics.mean(before),
        "metrics_mb": (run / "metrics.csv").stat().st_size / 1e6,
    }


def main(arguments: list[str]) -> int:
    """The whole experiment; the exit status."""
    given = dict(argument.split("=", 1) for argument in arguments)
    minutes, out = float(given.pop("minutes", 30)), given.pop("out", None)
    run = Path(out or tempfile.mkdtemp()) / "soak"
    sizes, (status, _, err) = watch(run, [f"{key}={value}" for key, value in given.items()], 60 * minutes)
    if status != 143:
        print(f"ended with {status} and not by SIGTERM:\n{err[-2000:]}", file=sys.stderr)
        return 1
    result = report(run, sizes)
    result["updates_in_checkpoint"] = load_checkpoint(run / "checkpoints/last.ckpt")["d2rl"]["updates"]
    print(json.dumps(result, indent=2))
    slower = result["slowdown"] > max(0.05, 3 * result["slowdown_error"])
    lost = result["updates_in_checkpoint"] != result["updates"]
    return 1 if result["memory_growth"] > 0.02 or slower or lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
