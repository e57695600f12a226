"""An installed wheel: what it holds, and its commands in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("conf", "d2rl/deploy/pretrained")
COMMANDS = {"d2rl-train", "d2rl-eval", "d2rl-benchmark", "d2rl-channels", "d2rl-export", "d2rl-report", "d2rl-tune"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of these sources."""
    place = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place), cwd=ROOT)
    (path,) = place.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel) -> Path:
    """A folder that it is installed in; what it depends on is this interpreter's."""
    options = ["--quiet", "--no-deps", "--no-index", "--target", str(wheel.parent / "site")]
    call(sys.executable, "-m", "pip", "install", *options, str(wheel), cwd=wheel.parent)
    return wheel.parent / "site"


def call(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(installed: Path, name: str, *arguments: str, cwd: Path) -> str:
    """A console command of the installation."""
    script = installed / "bin" / name
    return call(sys.executable, str(script), *arguments, cwd=cwd, PYTHONPATH=str(installed), COLUMNS="160")


def test_a_wheel_holds_configurations_and_policies(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.*") if path.suffix not in (".py", ".pyc")]
    assert len(files) > 20
    for path in files:
        name = str(path.relative_to(ROOT))
        assert (name if name.startswith("d2rl/") else f"d2rl/{name}") in names


def test_a_wheel_brings_commands_that_are_there(wheel):
    with zipfile.ZipFile(wheel) as content:
        (name,) = (one for one in content.namelist() if one.endswith("entry_points.txt"))
        lines = content.read(name).decode().splitlines()
    points = dict(line.split(" = ") for line in lines if " = " in line)
    assert set(points) >= COMMANDS
    for command, target in points.items():
        assert callable(EntryPoint(command, target, "console_scripts").load())


def test_in_an_empty_folder_the_shipped_configurations_are_at_hand(installed, tmp_path):
    code = (
        "import d2rl; from d2rl.problems import load_config; print(d2rl.__file__, load_config(['conf=smoke']).stages)"
    )
    said = call(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert said.startswith(str(installed))
    assert "state=2" in said


@pytest.mark.slow
def test_from_a_wheel_to_a_trained_policy_in_an_empty_folder(installed, tmp_path):
    """A conf/ there adds to and overrides what ships."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/smoke.yaml").write_text("defaults: smoke\nevaluation: {drops: 16}\nlogger: {mode: disabled}\n")
    (tmp_path / "conf/mine.yaml").write_text("defaults: smoke\ntrainer: {epochs: 3, updates_per_epoch: 20}\n")
    run(installed, "d2rl-train", "conf=mine", "run_dir=run", cwd=tmp_path)
    report = json.loads((tmp_path / "run/eval.json").read_text())
    assert report["drops"] == 16
    assert json.loads((tmp_path / "run/timing.json").read_text())["updates"] == 60
    assert "wmmse" in run(installed, "d2rl-eval", "ckpt=run", "drops=4", "out=again", cwd=tmp_path)
    assert (tmp_path / "again/eval.json").is_file()
    assert "conf=NAME" in run(installed, "d2rl-benchmark", "--help", cwd=tmp_path)
