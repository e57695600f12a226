"""The learning curve of a run: drawn from its files, whatever is in them."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from d2rl.report.learning_curve import learning_curve, read_metrics
from d2rl.runs.tracking import CsvLogger

REFERENCES = {
    name: {"sum_rate": rate} for name, rate in (("wmmse", 90.0), ("rzf", 67.0), ("mrt", 55.0), ("random", 40.0))
}


def write(path: Path, rates: list[float], stage_at: int | None = None) -> Path:
    logger = CsvLogger(path / "metrics.csv")
    for step, rate in enumerate(rates, start=1):
        logger.log_metrics({"time/total": 2.0 * step, "eval/sum_rate": rate}, 10 * step)
        if step == stage_at:
            logger.log_metrics({"charts/stage_state": 1.0}, 10 * step)
    logger.log_metrics({"time/total": 100.0}, 1000)  # a row without evaluation
    logger.save()
    return logger.path


def test_rows_that_lack_a_column_are_left_out(tmp_path):
    path = write(tmp_path, [50.0, 60.0])
    assert read_metrics(path, "time/total", "eval/sum_rate") == [(2.0, 50.0), (4.0, 60.0)]
    assert read_metrics(path, "nothing") == []


@pytest.mark.parametrize("rates", [[50.0, 60.0, 80.0], [50.0], []], ids=len)
def test_a_curve_is_drawn_however_few_evaluations_there_are(tmp_path, rates):
    learning_curve(write(tmp_path, rates), REFERENCES, tmp_path / "curve.png")
    image = matplotlib.image.imread(tmp_path / "curve.png")
    assert image.shape[0] > 300
    assert image.shape[1] > 600
    assert image[..., :3].std() > 0.01


def test_the_picture_shows_the_curve_and_the_stages(tmp_path):
    pictures = []
    for name, rates, stage in (
        ("a", [50.0, 60.0, 80.0], None),
        ("b", [50.0, 80.0, 80.0], None),
        ("c", [50.0, 60.0, 80.0], 2),
    ):
        (tmp_path / name).mkdir()
        learning_curve(write(tmp_path / name, rates, stage), REFERENCES, tmp_path / f"{name}.png")
        pictures.append(matplotlib.image.imread(tmp_path / f"{name}.png"))
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
