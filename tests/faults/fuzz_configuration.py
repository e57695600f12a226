"""Generated configurations: each runs one training step or ends with status 2 and one line that names the key.

    python tests/faults/fuzz_configuration.py [--cases 600] [--seed 0] [--processes 20]

Cases run in this process through the entry point of train.py; ``--processes`` of them, spread over all kinds, run
as processes of their own beforehand. Prints a summary, and every case that broke the rule; exit status 1 if one did.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from odd_configurations import Case, cases

from d2rl.commands.train_eval import train_command
from d2rl.common.command_line import run
from d2rl.evaluation import evaluate as evaluation
from d2rl.problems.full_duplex import references
from d2rl.training import train as training

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 600  # that a case may take, many times what it needs
TINY = {
    **{"scenario.downlink_users": 2, "scenario.uplink_users": 2, "scenario.transmit_antennas": 2},
    **{"scenario.receive_antennas": 2, "network.width": 4, "network.layers": 1},
    **{"ddpg.batch": 4, "ddpg.critic_batch": 8, "ddpg.replay": 32},
    **{"ddpg.warmup_updates": 0, "action.steps": 2, "action.candidates": 2, "reward.steps": 2, "reward.every": 1},
    **{"reward.samples": 2, "state.steps": 2, "state.width": 4, "state.every": 1, "trainer.epochs": 1},
    **{"trainer.updates_per_epoch": 2, "trainer.updates_per_step": 2, "trainer.num_envs": 4},
    **{"trainer.progress": "false", "trainer.accelerator": "cpu", "trainer.checkpoint_every": 1},
    **{"evaluation.drops": 4, "logger.mode": "disabled"},
}

# ------------------------------------------------------------------ running them


class Hang(BaseException):
    """A case took too long."""


@contextlib.contextmanager
def one_step() -> Iterator[None]:
    """Trainings stop after one step; what is timed, and how well WMMSE does, is tested elsewhere."""
    limited = partial(_trainer, L.Trainer)
    before = (training.L, evaluation.LATENCY_SECONDS, references.LIMIT, evaluation.LATENCY_REPEATS)
    training.L = types.SimpleNamespace(Trainer=limited, seed_everything=L.seed_everything)
    evaluation.LATENCY_SECONDS, references.LIMIT, evaluation.LATENCY_REPEATS = 0.0, 2, 3
    try:
        yield
    finally:
        training.L, evaluation.LATENCY_SECONDS, references.LIMIT, evaluation.LATENCY_REPEATS = before


def _trainer(make: Any, **options: Any) -> Any:
    return make(**{**options, "max_epochs": min(1, options["max_epochs"]), "limit_train_batches": 1})


def prepare(case: Case, place: Path) -> list[str]:
    """Write the case's file; all its arguments."""
    if case.file is not None:
        (place / "conf").mkdir(exist_ok=True)
        (place / "conf" / "mine.yaml").write_text(case.file, encoding="utf-8", newline="")
    given = {argument.partition("=")[0] for argument in case.arguments}
    kept = [f"{key}={value}" for key, value in TINY.items() if key not in given or case.kind == "argument"]
    base = [] if "resume" in given else kept
    return [*([] if "run_dir" in given else ["run_dir=run"]), *base, *case.arguments]


def call(case: Case, place: Path) -> tuple[int, str]:
    """Exit status and error output of a case, in this process. :raises Hang: it takes too long"""
    arguments, errors = prepare(case, place), io.StringIO()
    old, here = sys.argv, Path.cwd()
    sys.argv = ["train.py", *arguments]
    os.chdir(place)
    signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(train_command)
        return 0, errors.getvalue()
    except SystemExit as stop:
        return int(stop.code or 0), errors.getvalue()
    finally:
        signal.alarm(0)
        os.chdir(here)
        sys.argv = old


def _alarm(*_: object) -> None:
    raise Hang


def call_process(case: Case, place: Path) -> tuple[int, str]:
    """The same in a process of its own, as a person meets it."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *(one.replace("\0", "") for one in prepare(case, place))],
        **{"cwd": place, "capture_output": True, "text": True, "timeout": 2 * SECONDS},
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
    )
    return done.returncode, done.stderr


def verdict(case: Case, status: int, errors: str) -> str:
    """``ran``, ``refused``, or what is wrong."""
    lines = [line for line in errors.splitlines() if line.strip()]
    if status == 0:
        return "ran" if "Traceback" not in errors else f"a traceback: {lines[-1]}"
    if status != 2:
        return f"status {status}: {errors.strip()[-300:]}"
    if len(lines) != 1 or " error: " not in lines[0]:
        return f"not one message: {errors.strip()[-300:]}"
    if not any(name and name in lines[0] for name in case.names):
        return f"no key is named: {lines[0][:300]}"
    return "refused"


def judge(case: Case, runner: Any = call) -> str:
    """Run a case in a folder of its own and judge it."""
    with tempfile.TemporaryDirectory() as place:
        try:
            return verdict(case, *runner(case, Path(place)))
        except (Hang, subprocess.TimeoutExpired):
            return "a hang"
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            return f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"


def main() -> int:
    """Run everything, print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=20)
    options = parser.parse_args()
    quiet()
    everything = cases(options.cases, options.seed)
    outcomes, wrong, begin = Counter(), [], time.monotonic()
    sample = (
        everything[:: max(1, len(everything) // options.processes)][: options.processes] if options.processes else []
    )
    for case in sample:
        found = judge(case, call_process)
        outcomes["process", found if found in ("ran", "refused") else "wrong"] += 1
        if found not in ("ran", "refused"):
            wrong.append(("process", case, found))
    with one_step():
        for case in everything:
            found = judge(case)
            outcomes[case.kind, found if found in ("ran", "refused") else "wrong"] += 1
            if found not in ("ran", "refused"):
                wrong.append((case.kind, case, found))
                print(f"{case.kind}: {case.arguments!r:.300} {(case.file or '')!r:.200}\n    {found}", flush=True)
    for (kind, outcome), number in sorted(outcomes.items()):
        print(f"{kind:12} {outcome:8} {number:5}")
    print(f"{len(everything)} configurations, {len(wrong)} wrong, {time.monotonic() - begin:.0f} s")
    for kind, case, found in wrong:
        if kind == "process":
            print(f"process {case.arguments!r:.300} {(case.file or '')!r:.200}\n    {found}")
    return 1 if wrong else 0


def quiet() -> None:
    """No word from Lightning, and no W&B account that a case could use."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("WANDB_API_KEY", "NETRC"):
        os.environ.pop(name, None)
    os.environ["COLUMNS"] = "160"


if __name__ == "__main__":
    sys.exit(main())
