"""metrics.csv: one row for each logged step, appended, so that a long run costs no more than a short one."""

from __future__ import annotations

import csv
import errno
import io
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from d2rl.common.files import keeping_on, write_text

STEP = "environment_steps"


class CsvLogger(Logger):
    """One row for each logged step in one file, whatever columns come up; a resumed run goes on in it.

    Rows are kept until :meth:`save` has them on the disk. The file is written anew, in one step, when a column is
    new or the last row got more values, and else grows at its end.

    :param path: of the file
    """

    def __init__(self, path: Path):
        super().__init__()
        self.path = Path(path)
        self.rows: list[dict[str, Any]] = []  # that are not in the file yet
        self.columns: list[str] = []  # of the file
        self.last: dict[str, Any] | None = None  # row of the file
        self.size = 0  # of the file
        self.amended = False

    def resume(self, step: int) -> None:
        """Keep the rows up to ``step``, drop what a run that broke off wrote after its checkpoint."""
        lines = self._lines()
        columns = next(csv.reader(lines[:1]), [])
        if columns[:1] != [STEP]:
            return
        self.columns = columns
        kept = [line for line in lines[1:] if int(line.split(",", 1)[0]) <= step]
        self._replace(lines[:1] + kept)
        self.last = next(csv.DictReader(kept[-1:], self.columns), None)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add values of one step; values of the same step share a row."""
        if self.rows:
            if self.rows[-1][STEP] == step:
                self.rows[-1].update(metrics)
                return
        elif self.last is not None and int(self.last[STEP]) == step:
            self.last.update(metrics)
            self.amended = True
            return
        self.rows.append({STEP: step, **metrics})

    def save(self) -> None:
        """Bring the file up to date; one that cannot be written now is tried again the next time."""
        with keeping_on(self.path):
            self._save()

    def finalize(self, status: str) -> None:
        """Write what is left when training ends, however it ends."""
        self.save()

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Left to config.yaml."""

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        """Always the same: the run directory tells runs apart."""
        return ""

    def _save(self) -> None:
        changed = ([self.last] if self.last is not None and self.amended else []) + self.rows
        if not changed:
            return
        columns = list(dict.fromkeys([*self.columns, *(name for row in changed for name in row)]))
        intact = self.size > 0 and self.path.exists() and self.path.stat().st_size == self.size
        if intact and columns == self.columns and not self.amended:
            self._append(_text(changed, columns))
        else:
            before = list(csv.DictReader(self._lines() if self.size else []))
            if self.amended and before:
                before.pop()
            self._replace([_text([dict(zip(columns, columns, strict=True)), *before, *changed], columns)])
        self.columns, self.last = columns, changed[-1]
        self.rows, self.amended = [], False

    def _lines(self) -> list[str]:
        """Whole lines of the file; one that a killed run was writing is left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [line for line in lines if line.endswith("\n")]

    def _replace(self, lines: list[str]) -> None:
        text = "".join(lines)
        write_text(self.path, text)
        self.size = len(text.encode())

    def _append(self, text: str) -> None:
        data = text.encode()
        with open(self.path, "r+b", buffering=0) as file:
            file.seek(self.size)
            try:
                if file.write(data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(self.size)  # half a row is no row
                raise
        self.size += len(data)


def _text(rows: list[dict[str, Any]], columns: list[str]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue()
