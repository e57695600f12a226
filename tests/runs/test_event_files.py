"""TensorBoard event files: what metrics.csv has, also over a resumed run."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from d2rl.common.errors import ConfigError
from d2rl.config.load import check
from d2rl.runs.event_files import EventFiles
from d2rl.runs.run_directory import RunDirectory
from d2rl.training.train import train

accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="reads the events back; extra `tensorboard`"
)


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_scalars_come_back_at_their_steps(tmp_path):
    logger = EventFiles(tmp_path)
    logger.log_metrics({"losses/critic": 1.5, "eval/sum_rate": 60.0}, 10)
    logger.log_metrics({"losses/critic": 1.25}, 20)
    logger.finalize("success")
    assert read(tmp_path) == {"losses/critic": [(10, 1.5), (20, 1.25)], "eval/sum_rate": [(10, 60.0)]}


def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path):
    for steps, value, resumed in (((10, 20, 30), 1.0, None), ((20, 30, 40), 2.0, 10)):
        logger = EventFiles(tmp_path, resumed)
        for step in steps:
            logger.log_metrics({"a": value}, step)
        logger.save()
    assert read(tmp_path)["a"] == [(10, 1.0), (20, 2.0), (30, 2.0), (40, 2.0)]


def test_a_folder_that_cannot_be_written_ends_the_event_files_not_the_run(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file is in the way")
    logger = EventFiles(tmp_path / "tensorboard")
    logger.log_metrics({"a": 1.0}, 10)
    logger.log_metrics({"a": 1.0}, 20)
    logger.finalize("success")
    assert caplog.text.count("training goes on without event files") == 1


def test_a_run_writes_the_numbers_of_its_metrics_csv(tiny, tmp_path):
    config = tiny("logger.tensorboard=true", f"run_dir={tmp_path / 'run'}")
    run = RunDirectory.create(config, "test")
    train(config, run)
    with open(run.metrics, newline="") as file:
        rows = list(csv.DictReader(file))
    expected: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if value and name != "environment_steps":
                expected.setdefault(name, []).append((int(row["environment_steps"]), float(value)))
    found = {name: dict(points) for name, points in read(run.tensorboard).items()}  # as in a row, the last value counts
    assert "eval/sum_rate" in found
    assert set(found) == set(expected)
    for name, points in expected.items():
        assert found[name] == pytest.approx(dict(points), rel=1e-6)


def test_without_being_asked_for_there_are_none(tiny, tmp_path):
    config = tiny(f"run_dir={tmp_path / 'run'}")
    run = RunDirectory.create(config, "test")
    train(config, run)
    assert not run.tensorboard.exists()


def test_a_missing_library_is_named_with_its_extra(tiny, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"d2rl\[tensorboard\]"):
        check(tiny("logger.tensorboard=true"))
    check(tiny())
