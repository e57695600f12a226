"""W&B sweeps: every run that one may start is a configuration that runs."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from d2rl.commands.workspace import METRICS
from d2rl.config.load import check, load
from d2rl.config.schema import leaves

ROOT = Path(__file__).resolve().parents[2]
SWEEPS = sorted((ROOT / "conf/sweeps").glob("*.yaml"))
KINDS = ("value", "values", "min")


def ends(parameter: dict[str, Any]) -> list[Any]:
    """What a parameter may become: all values of a list, both ends of an interval."""
    (kind,) = [kind for kind in KINDS if kind in parameter]
    return {
        "value": lambda: [parameter["value"]],
        "values": lambda: parameter["values"],
        "min": lambda: [parameter["min"], parameter["max"]],
    }[kind]()


def commands(sweep: dict[str, Any]) -> list[list[str]]:
    """The command lines that W&B's agent makes of a sweep, one for each combination."""
    names = list(sweep["parameters"])
    lines = []
    for values in product(*(ends(parameter) for parameter in sweep["parameters"].values())):
        args = {name: {"value": value} for name, value in zip(names, values, strict=True)}
        flags = create_sweep_command_args({"args": args})
        line: list[str] = []
        for part in create_sweep_command(list(sweep["command"])):
            line += flags["args_no_hyphens"] if part == "${args_no_hyphens}" else [part]
        line[line.index("${program}")] = sweep["program"]
        lines.append(line)
    return lines


@pytest.fixture(params=SWEEPS, ids=lambda path: path.stem)
def sweep(request) -> dict[str, Any]:
    return yaml.safe_load(request.param.read_text())


def test_there_is_a_sweep_of_chi_of_the_denoising_steps_and_of_rates():
    assert {path.stem for path in SWEEPS} == {"chi", "denoising_steps", "rates"}


def test_parameters_are_keys_of_the_configuration(sweep):
    assert set(sweep["parameters"]) - {"conf"} <= set(leaves(load([])))


@pytest.mark.slow
def test_every_combination_is_a_configuration_that_runs(sweep, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)  # online runs want one; nothing is sent here
    lines = commands(sweep)
    keys = [name for name in sweep["parameters"] if name != "conf"]
    seen = set()
    for line in lines:
        program = line.index("train.py")
        config = load(line[program + 1 :])
        check(config)
        seen.add(tuple(leaves(config)[key].value for key in keys))
    assert len(seen) == len(lines)  # every parameter arrives, as the value it was given


def test_the_command_calls_train_py_of_the_repository(sweep):
    assert (ROOT / sweep["program"]).is_file()
    assert sweep["command"][-3:] == ["python", "${program}", "${args_no_hyphens}"]
    assert sweep["command"][0] == "${env}"


def test_the_metric_is_one_that_a_run_logs(sweep):
    assert sweep["metric"]["name"] in METRICS
    assert sweep["metric"]["goal"] == "maximize"
