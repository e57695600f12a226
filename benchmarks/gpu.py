"""All that only a GPU can tell, in one command of a few minutes; on a CPU a rehearsal of it.

    python -m benchmarks.gpu out=DIR [minutes=8] [device=auto] [parts=capture,updates]

Needs torch, lightning, torchmetrics, numpy, omegaconf, gymnasium and rich; no W&B and no installation of d2rl. Parts
run in the order of ``PARTS``, the most important first, and each writes ``DIR/<part>.json`` as it goes on, so that
what was measured is there whenever the machine is taken away. They run in a process of their own: one that fails,
hangs or breaks the device costs its own result alone, and the next parts go on in a new process.
"""

from __future__ import annotations

import logging
import multiprocessing
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # benchmarks import each other by name

import gpu_parts
from gpu_parts import PARTS, Budget, GpuConfig
from rich.console import Console

from d2rl.common.command_line import run
from d2rl.common.errors import ConfigError
from d2rl.common.files import write_json
from d2rl.common.host import accelerator_device, no_gpu_reason
from d2rl.config.load import load
from d2rl.config.schema import either

GRACE = 20.0  # seconds beyond its share after which a part counts as hanging


@dataclass
class Turn:
    """Whose turn it is, shared by two processes.

    :param part: index in the list of parts that were asked for
    :param end: ``time.time()`` at which it should end
    """

    part: Any
    end: Any

    @classmethod
    def shared(cls) -> Turn:
        """Nobody's yet."""
        context = multiprocessing.get_context("spawn")
        return cls(context.Value("i", -1), context.Value("d", 0.0))


def gpu_command(arguments: list[str]) -> None:
    """python -m benchmarks.gpu out=DIR [minutes=8] [device=auto] [parts=NAME,...]

    Measures a GPU part by part, the most important first, and writes DIR/<part>.json.
    """
    asked = load(arguments, GpuConfig)
    if asked.out is None:
        raise ConfigError("out=DIR is missing: the folder for the results.")
    names = asked.parts.split(",") if asked.parts else list(PARTS)
    for name in names:
        if name not in PARTS:
            raise ConfigError(f"parts={asked.parts}: {name} is no part; they are {either(PARTS)}.")
    console = Console()
    if accelerator_device(asked.device, key="device").type == "cpu" and asked.device == "auto":
        console.print(
            f"a rehearsal on the CPU, which tells nothing of a GPU; torch sees none: {no_gpu_reason()}",
            markup=False,
            soft_wrap=True,
        )
    out, began = Path(asked.out).expanduser(), time.time()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out={out} cannot be written: {error.strerror}; choose another folder.") from None
    first, end = 0, began + 60 * asked.minutes
    while first < len(names) and time.time() < end:
        first = supervised(asked, names, first, end, console)
    summary = {"minutes": (time.time() - began) / 60, "parts": names, "not begun": names[first:]}
    write_json(out / "summary.json", summary)
    for name in names[:first]:
        if error := gpu_parts.saved(asked, name).get("error"):
            console.print(f"{name} failed: {error}", markup=False, soft_wrap=True)
    console.print(f"written: {out}", markup=False, soft_wrap=True)


def supervised(asked: GpuConfig, names: list[str], first: int, end: float, console: Console) -> int:
    """Run parts from the first on in a process of their own, until one fails, hangs, or all are done.

    :param end: ``time.time()`` at which all must be done
    :returns: the first part that was not begun
    """
    turn = Turn.shared()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(asked, names, first, end, turn))
    process.start()
    shown = -1
    while process.is_alive():
        process.join(0.2)
        if turn.part.value != shown:
            shown = turn.part.value
            console.print(f"{names[shown]} ...", markup=False)
        if time.time() > end + GRACE or (shown >= 0 and time.time() > turn.end.value + GRACE):
            process.kill()
            process.join()
            note(asked, names[shown], f"killed: not done {GRACE:.0f} s after its time")
    if process.exitcode and shown >= 0:
        note(asked, names[shown], f"its process ended with status {process.exitcode}")
    return max(turn.part.value, first) + 1


def note(asked: GpuConfig, name: str, message: str) -> None:
    """Say in a part's file why its process could not, unless it has said so itself."""
    saved = gpu_parts.saved(asked, name)
    if "error" not in saved:
        gpu_parts.save(asked, name, {**saved, "error": message})


def work(asked: GpuConfig, names: list[str], first: int, end: float, turn: Turn) -> None:
    """Run parts in this process; a failure ends it, since it may have broken the device's context."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    for index in range(first, len(names)):
        share = PARTS[names[index]].share / sum(PARTS[name].share for name in names[index:])
        budget = Budget(time.time() + share * (end - time.time()))
        turn.end.value, turn.part.value = budget.end, index
        if not gpu_parts.perform(asked, names[index], budget):
            sys.exit(1)


if __name__ == "__main__":
    run(gpu_command, GpuConfig)
