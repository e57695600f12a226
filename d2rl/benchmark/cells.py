"""One cell: a training run in a process and a folder of its own, finished or not.

``python -m d2rl.benchmark.cells FOLDER REFERENCES key=value ...`` trains; its parent holds the other end of its
standard input, and when the parent is gone the cell ends too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

from d2rl.benchmark.matrix import Cell
from d2rl.common.files import write_json
from d2rl.report.learning_curve import read_metrics

LOG, MARKER = "log.txt", "done.json"
LOG_LINES = 6  # of a failed cell that are shown


def finished(cell: Cell) -> bool:
    """Whether its result is there, complete, and of this very configuration."""
    try:
        marker = json.loads((cell.folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return marker.get("fingerprint") == cell.fingerprint and (marker["references"] or not cell.references)


def finish(cell: Cell) -> None:
    """Mark the cell as done; the last thing written."""
    done = {"fingerprint": cell.fingerprint, "references": cell.references, "torch": version("torch")}
    write_json(cell.folder / MARKER, done)


def start(cell: Cell) -> subprocess.Popen:
    """Train it in a new process and an emptied folder; output goes to its log.txt."""
    shutil.rmtree(cell.folder, ignore_errors=True)
    cell.folder.mkdir(parents=True)
    threads, root = str(cell.config.trainer.threads or 1), str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [
        sys.executable,
        "-m",
        "d2rl.benchmark.cells",
        str(cell.folder),
        str(int(cell.references)),
        *cell.arguments,
    ]
    with open(cell.folder / LOG, "wb") as log:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def run(cell: Cell) -> int:
    """Train it and wait; the exit status."""
    with start(cell) as process:
        try:
            return process.wait()
        finally:
            process.kill()


def last_words(cell: Cell) -> str:
    """The end of its log."""
    try:
        lines = (cell.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"no log: {error.strerror}"
    return "\n".join([line for line in lines if line.strip()][-LOG_LINES:]) or "its log is empty"


def progress(cell: Cell) -> tuple[int, float] | None:
    """Updates done and gap closed, as last written to metrics.csv."""
    try:
        rows = read_metrics(cell.folder / "metrics.csv", "charts/updates", "eval/gap_closed")
    except (OSError, ValueError):
        return None
    return (int(rows[-1][0]), rows[-1][1]) if rows else None


def train_cell(arguments: list[str]) -> None:
    """python -m d2rl.benchmark.cells FOLDER REFERENCES key=value ...

    Of the checkpoints only the last stays, the one whose weights are evaluated: a matrix has many cells.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from d2rl.algorithm.decisions import decision_rule
    from d2rl.evaluation.evaluate import score_agent
    from d2rl.problems import check_config, load_config
    from d2rl.runs.run_directory import RunDirectory
    from d2rl.training.train import train  # only here: slow to import

    folder, references, *overrides = arguments
    config = load_config([*overrides, f"run_dir={folder}"])
    check_config(config)
    run = RunDirectory.create(config, Path(folder).name)
    result = train(config, run)
    assert result.evaluation is not None  # a cell is one process
    report = score_agent(result.agent, result.evaluation, decision_rule(config), references=bool(int(references)))
    write_json(run.evaluation, report)
    for checkpoint in run.checkpoints.iterdir():
        if checkpoint != run.last:
            checkpoint.unlink()


def _end_with_parent() -> None:
    os.read(0, 1)  # returns when the other end is closed
    os._exit(1)


if __name__ == "__main__":
    from d2rl.common.command_line import run as run_command

    run_command(train_cell)
