"""benchmarks/generalise.py: which cells it makes of one, and what it says of a policy in them."""

from __future__ import annotations

import csv
import importlib.util
import sys
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import matplotlib.image
import pytest

from d2rl.algorithm.decisions import DecisionRule
from d2rl.algorithm.policy import Policy
from d2rl.common.errors import ConfigError
from d2rl.config.defaults import FullDuplexConfig
from d2rl.envs import FullDuplexEnv
from d2rl.evaluation.evaluate import Evaluation, policy_of
from d2rl.problems import make_problems
from d2rl.problems.full_duplex import references
from d2rl.runs.run_directory import RunDirectory
from d2rl.training.checkpoint import config_of, load_checkpoint
from d2rl.training.train import train
from d2rl.wireless.bank_file import save_bank
from d2rl.wireless.channel_bank import ChannelBank

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def generalise():
    """The script as a module."""
    path = Path(__file__).resolve().parents[2] / "benchmarks/generalise.py"
    spec = importlib.util.spec_from_file_location("generalise", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["generalise"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(references, "LIMIT", 5)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory) -> Path:
    """A run of a few updates."""
    path = tmp_path_factory.mktemp("work") / "run"
    config = tiny(f"run_dir={path}", "trainer.epochs=1")
    train(config, RunDirectory.create(config, "run"))
    return path


def write_bank(path: Path) -> Path:
    """Ten states of another cell."""
    env = FullDuplexEnv(FullDuplexConfig(downlink_users=2, uplink_users=1, transmit_antennas=3), 10, 0)
    save_bank(ChannelBank(env.state.channels, env.state.gains, env.state.weights), path)
    return path


def test_each_cell_changes_one_thing(generalise):
    trained = FullDuplexConfig(speed=5.0)
    rows = list(generalise.cells(trained, list(generalise.GROUPS), []))
    changes = {}
    for row in rows:
        different = {key: value for key, value in asdict(row.scenario).items() if value != asdict(trained)[key]}
        assert row.trained == (not different)
        changes.setdefault(row.group, []).append(different)
    assert {tuple(change) for change in changes["users"]} <= {
        ("downlink_users", "uplink_users"),
        ("uplink_users",),
        ("downlink_users",),
    }
    assert {change.get("transmit_antennas", 8) for change in changes["antennas"]} == {4, 8, 16, 32}
    assert all(change.keys() <= {"cell_radius"} for change in changes["radius"])
    assert all(change.keys() <= {"self_interference"} for change in changes["interference"])
    assert [row.value for row in rows if row.trained] == [8, 100.0, -90.0, "as trained"]
    box = [row.scenario for row in rows if row.group == "box"]
    assert all(cell.receive_antennas == cell.transmit_antennas for cell in box)
    corners = {(cell.downlink_users, cell.uplink_users, cell.transmit_antennas) for cell in box}
    assert corners == set(product((2, 6, 12), (2, 6, 12), (4, 8, 32)))


def test_cells_that_training_has_visited_are_marked(generalise):
    trained = FullDuplexConfig(loads="2+2,2+12@4,3+3")
    rows = generalise.cells(trained, ["users", "box"], [])
    assert [row.value for row in rows if row.trained] == [2, "2 + 12 users, 4 antennas", "2 + 2 users, 8 antennas"]


def test_a_policy_trained_on_a_bank_is_put_into_drawn_cells_too(generalise, tmp_path):
    bank = str(write_bank(tmp_path / "mine.npz"))
    trained = FullDuplexConfig(downlink_users=2, uplink_users=1, transmit_antennas=3, channel_bank=bank)
    rows = list(generalise.cells(trained, ["radius", "propagation"], [bank]))
    assert [row.value for row in rows if row.scenario.channel_bank] == ["as trained", "mine"]
    assert [row.value for row in rows if row.trained] == ["as trained", "mine"]


def test_the_command_leaves_a_table_a_figure_and_numbers(generalise, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generalise, "USERS", (1, 5))
    bank, out = write_bank(tmp_path / "other.npz"), tmp_path / "out"
    given = [f"ckpt={run}", "drops=6", f"out={out}", "only=users,propagation", f"bank={bank}"]
    generalise.generalise_command(given)
    with open(out / "generalise.csv", newline="") as file:
        rows = {row["value"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["1", "5", "as trained", "NLOS, 30 dBm", "other"]
    assert [row["drops"] for row in rows.values()] == ["6", "6", "6", "6", "2"]
    assert [row["trained"] for row in rows.values()] == ["0", "0", "1", "0", "0"]
    assert rows["5"]["uplink_users"] == "5"
    assert rows["other"]["transmit_antennas"] == "3"
    for name in ("1", "as trained"):  # the same as eval.py would say of it
        row, checkpoint = rows[name], load_checkpoint(run / "checkpoints/best.ckpt")
        before = config = config_of(checkpoint)
        users = {} if name == "as trained" else {"downlink_users": 1, "uplink_users": 1}
        config = replace(config, scenario=replace(config.scenario, **users))
        weights = {key: value for key, value in checkpoint["state_dict"].items() if key.startswith("aenpnn.")}
        policy = Policy.of(config, weights, before, "the checkpoint")
        score = Evaluation(make_problems(config)[0], 6, 0).score("d2rl", policy_of(policy, DecisionRule()))
        assert float(row["sum_rate/D2RL"]) == pytest.approx(score["sum_rate"], rel=1e-5)
        assert float(row["wmmse_ratio"]) == pytest.approx(score["wmmse_ratio"], rel=1e-5)
        assert float(row["gap_closed"]) == pytest.approx(score["gap_closed"], rel=1e-4)
        assert float(row["half_interval"]) > 0
    table = (out / "generalise.md").read_text()
    assert "| **as trained** |" in table
    assert table in capsys.readouterr().out
    assert matplotlib.image.imread(out / "generalise.png").shape[2] == 4


def test_a_policy_that_ships_is_put_into_the_corners_of_the_box(generalise, tmp_path, monkeypatch):
    monkeypatch.setattr(generalise, "BOX_USERS", (1, 3))
    monkeypatch.setattr(generalise, "BOX_ANTENNAS", (2,))
    generalise.generalise_command(["ckpt=pretrained/any_load", "drops=4", "only=box", f"out={tmp_path}"])
    with open(tmp_path / "generalise.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["value"] for row in rows] == [f"{d} + {u} users, 2 antennas" for d, u in product((1, 3), (1, 3))]
    assert all(float(row["wmmse_ratio"]) > 0 for row in rows)
    assert "| 3 + 1 users, 2 antennas |" in (tmp_path / "generalise.md").read_text()
    assert not (tmp_path / "generalise.png").exists()  # three changes at a time have no axis


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "ckpt=PATH is missing"),
        (["ckpt=RUN", "only=user"], "only=user: user is no group; they are users, antennas"),
        (["ckpt=RUN", "drops=1"], "drops cannot be 1"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_named(generalise, run, arguments, message):
    with pytest.raises(ConfigError, match=message):
        generalise.generalise_command([one.replace("RUN", str(run)) for one in arguments])
