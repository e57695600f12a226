"""``d2rl-report RUN RUN ...``: runs side by side on one page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from d2rl.common.errors import ConfigError
from d2rl.common.files import write_text, writing
from d2rl.report.comparison import Finished, Row, comparison_page, read_runs, results
from d2rl.report.terminal import shown

PAGE = "comparison.html"


def report_command(arguments: list[str]) -> None:
    """d2rl-report RUN RUN ... [out=comparison.html]

    Draws finished runs side by side on one page that needs no network: curves, results with their
    differences from the first run, and the keys in which their configurations differ.
    """
    given = [one.removeprefix("out=") for one in arguments if one.startswith("out=")]
    paths = [one for one in arguments if not one.startswith("out=")]
    out = Path(given[-1] if given else PAGE).expanduser()
    if len(paths) < 2:
        raise ConfigError(f"d2rl-report needs two run directories or more, got {len(paths)}.")
    runs = read_runs(paths)
    page = comparison_page(runs)
    with writing(f"out={out}", "choose another place"):
        write_text(out, page)
    console = Console()
    console.print(_table(runs, results(runs)))
    console.print(f"written: {out}", markup=False, soft_wrap=True)


def _table(runs: list[Finished], rows: list[Row]) -> Table:
    table = Table(caption="in brackets: difference from the first run")
    table.add_column("")
    for run in runs:
        table.add_column(run.name, justify="right", overflow="fold")
    for row in rows:
        cells = []
        for value, difference in zip(row.values, row.differences, strict=True):
            tail = "" if difference is None else f" ({difference:+.{row.digits}f})"
            cells.append(shown(value, row.digits) + tail)
        table.add_row(row.label, *cells)
    return table
