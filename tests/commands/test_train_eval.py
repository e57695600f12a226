"""train.py and eval.py as a person meets them: files, tables, exit statuses, one clear message for a mistake."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import matplotlib.image
import numpy
import pytest
import torch

from d2rl.commands.train_eval import evaluate_command, train_command
from d2rl.common.errors import CheckpointError, ConfigError, UserError
from d2rl.evaluation import evaluate as evaluation
from d2rl.problems import load_config
from d2rl.problems.full_duplex import references
from d2rl.training.checkpoint import load_checkpoint, write_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PLAN = (
    *("scenario.downlink_users=3", "scenario.uplink_users=2", "scenario.transmit_antennas=4"),
    *("scenario.receive_antennas=4", "network.width=8", "network.layers=1", "ddpg.batch=8", "ddpg.replay=64"),
    *(
        "ddpg.warmup_updates=2",
        "action.steps=3",
        "state.steps=3",
        "state.width=8",
        "trainer.updates_per_step=2",
        "trainer.updates_per_slot=1",
    ),
    *("trainer.updates_per_epoch=4", "trainer.epochs=2", "trainer.num_envs=8", "trainer.checkpoint_every=1"),
    *("trainer.accelerator=cpu", "trainer.threads=1", "evaluation.drops=8", "logger.mode=disabled"),
)
POLICIES = {"d2rl", "d2rl best of 16", "best_known", "wmmse", "wmmse_200", "rzf", "zf", "mrt", "random"}
METRICS = {"sum_rate", "gap_closed", "wmmse_ratio", "downlink_rate", "uplink_rate", "rate_p5", "jain", "latency_ms"}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def command(program: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / program), *arguments]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160"}


def call(program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(program, *arguments), capture_output=True, text=True, timeout=600, cwd=cwd, env=ENVIRONMENT
    )


@pytest.fixture(autouse=True)
def quick_references(monkeypatch, request):
    """What is timed, and how well WMMSE does, is tested elsewhere."""
    monkeypatch.setattr(evaluation, "LATENCY_SECONDS", 0.0)
    if "last_evaluation" not in request.node.name:
        monkeypatch.setattr(references, "LIMIT", 10)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[subprocess.CompletedProcess, Path]:
    """A run of train.py, with a threshold of chi that SENPNN's loss cannot get below."""
    place = tmp_path_factory.mktemp("work")
    done = call("train.py", *PLAN, "stages.state=1", "chi.threshold=0.1", "run_dir=out/run", cwd=place)
    return done, place / "out/run"


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(finished[1], tmp_path / "copy"))


@pytest.fixture(scope="module")
def mlp(tmp_path_factory) -> Path:
    """The checkpoint of a run with the mlp network."""
    path = tmp_path_factory.mktemp("work") / "mlp"
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(evaluation, "LATENCY_SECONDS", 0.0)
        train_command([*PLAN, "network.kind=mlp", "trainer.epochs=1", f"run_dir={path}", "trainer.progress=false"])
    return path / "checkpoints/last.ckpt"


def metrics(path: Path) -> list[dict[str, str]]:
    with open(path / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------ what works


def test_train_leaves_a_complete_run(finished):
    done, path = finished
    assert done.returncode == 0, done.stderr
    report, timing = (json.loads((path / name).read_text()) for name in ("eval.json", "timing.json"))
    assert set(report["policies"]) == POLICIES
    untimed = {"best_known": {"latency_ms"}}
    assert all(set(found) >= METRICS - untimed.get(name, set()) for name, found in report["policies"].items())
    assert report["drops"] == 8
    assert report["scenario"]["downlink_users"] == 3
    assert timing["updates"] == 8
    assert set(timing["time_to_gap"]) == {"0.70", "0.80", "0.90"}
    assert load_config([f"conf={path / 'config.yaml'}"]) == load_config(
        [*PLAN, "stages.state=1", "chi.threshold=0.1", "run_dir=out/run"]
    )
    assert matplotlib.image.imread(path / "learning_curve.png").shape[2] == 4
    assert [row["environment_steps"] for row in metrics(path)] == ["0", "16", "32", "48", "64"]
    for name in ("last", "best"):
        assert load_checkpoint(path / f"checkpoints/{name}.ckpt")["d2rl"]["updates"] in (4, 8)


def test_train_says_what_it_did(finished):
    done, _ = finished
    for text in (
        "downlink_users: 3",
        "run directory: out/run",
        "share of",
        "wmmse",
        "8 drops",
        "learning curve: out/run",
    ):
        assert text in done.stdout
    assert "Traceback" not in done.stderr
    assert "chi.threshold=0.1 (T) is not above the floor" in done.stderr


@pytest.mark.slow
def test_a_quick_look_says_what_a_full_run_would_take(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    train_command(["conf=smoke", *PLAN, "trainer.epochs=1", f"run_dir={tmp_path / 'run'}", "trainer.progress=false"])
    said = capsys.readouterr().out
    assert re.search(r"conf=full_duplex makes 1,000 updates where this made 4, about \d+ s of training on", said)


@pytest.mark.slow
@pytest.mark.parametrize(("level", "told"), [("info", True), ("warning", False)])
def test_a_level_leaves_messages_out(tmp_path, level, told):
    arguments = [*PLAN, "stages.reward=1", f"logger.level={level}", "run_dir=run", "trainer.progress=false"]
    assert ("stage reward: begins" in call("train.py", *arguments, cwd=tmp_path).stderr) is told


def test_eval_of_a_checkpoint_equals_the_last_evaluation_in_training(finished, tmp_path, monkeypatch):
    """Up to rounding: training ran in a process of its own."""
    monkeypatch.setattr(references, "ITERATIONS", 200)  # as there
    _, path = finished
    evaluate_command([f"ckpt={path / 'checkpoints/last.ckpt'}", f"out={tmp_path / 'there'}"])
    report, before = (json.loads((folder / "eval.json").read_text()) for folder in (tmp_path / "there", path))
    last = metrics(path)[-1]
    for name, policy in report["policies"].items():
        for key, value in policy.items():
            if key != "latency_ms":
                assert value == pytest.approx(before["policies"][name][key], rel=1e-4, abs=1e-4), (name, key)
            if name == "d2rl" and key != "latency_ms":
                assert value == pytest.approx(float(last[f"eval/{key}"]), rel=1e-4, abs=1e-4), key
    assert (report["drops"], report["scenario"]) == (before["drops"], before["scenario"])


def test_eval_needs_nothing_but_the_checkpoint_and_writes_beside_it(run, tmp_path, monkeypatch, capsys):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(run / "checkpoints/best.ckpt", alone / "mine.ckpt")
    shutil.rmtree(run)
    monkeypatch.chdir(alone)
    evaluate_command(["ckpt=mine.ckpt", "drops=4", "seed=3", "best_of=2", "refine=1"])
    report = json.loads((alone / "eval.json").read_text())
    assert report["drops"] == 4
    assert set(report["policies"]) == POLICIES - {"d2rl best of 16"}
    assert "written: eval.json" in capsys.readouterr().out


def test_eval_of_a_run_directory_replaces_its_report(run):
    before = json.loads((run / "eval.json").read_text())
    evaluate_command([f"ckpt={run}", "drops=4"])
    assert (before["drops"], json.loads((run / "eval.json").read_text())["drops"]) == (8, 4)


@pytest.mark.slow
def test_a_link_graph_serves_other_users_and_antennas(run, tmp_path):
    other = {"downlink_users": 5, "uplink_users": 1, "transmit_antennas": 6, "receive_antennas": 3}
    evaluate_command([f"ckpt={run}", f"out={tmp_path}", "drops=4", *(f"scenario.{k}={v}" for k, v in other.items())])
    report = json.loads((tmp_path / "eval.json").read_text())
    assert other.items() <= report["scenario"].items()
    assert report["policies"]["random"]["sum_rate"] < report["policies"]["d2rl"]["sum_rate"]


def test_eval_reports_weighted_rates_and_a_proportional_fair_schedule(run, tmp_path):
    asked = ("evaluation.weights=3,0,1,1,2", "evaluation.slots=3", "refine=2", "drops=4")
    evaluate_command([f"ckpt={run}", f"out={tmp_path}", *asked])
    report = json.loads((tmp_path / "eval.json").read_text())
    keys = {f"{name}_{key}" for name in ("equal", "proportional_fair") for key in ("sum_rate", "geometric_mean", "p5")}
    assert set(report["proportional_fair"]) == keys | {"slots"}
    for policy in report["policies"].values():
        assert policy["weighted_sum_rate"] != pytest.approx(policy["sum_rate"], rel=1e-3)
        assert policy["weighted_sum_rate"] < report["interference_free_bound"]


@pytest.fixture
def bank(tmp_path) -> Path:
    """Measured states of the planned cell, without mean gains, as raw amplitude gains."""
    shapes = {"downlink": (3, 4), "uplink": (2, 4), "cross": (2, 3), "self_interference": (4, 4)}
    draw = {
        name: torch.randn(20, *shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
        for name, shape in shapes.items()
    }
    path = tmp_path / "bank.npz"
    numpy.savez(path, noise_normalised=False, **{name: 3e-5 * tensor.numpy() for name, tensor in draw.items()})
    return path


@pytest.mark.slow
def test_all_explorers_train_and_go_on_with_a_channel_bank(bank, tmp_path):
    path = tmp_path / "run"
    stages = ("stages.state=0", "chi.policy=fixed", "state.every=1")
    train_command([*PLAN, f"scenario.channel_bank={bank}", *stages, "trainer.progress=false", f"run_dir={path}"])
    report, before = json.loads((path / "eval.json").read_text()), metrics(path)
    assert (report["drops"], report["scenario"]["channel_bank"]) == (4, str(bank))
    assert report["policies"]["random"]["sum_rate"] < report["policies"]["wmmse"]["sum_rate"]
    copy = shutil.copytree(path, tmp_path / "copy")
    train_command([f"resume={copy}", "trainer.epochs=3", "trainer.progress=false"])
    after = metrics(copy)
    assert len(after) == len(before) + 2
    assert all(float(row["losses/senpnn"]) > 0 for row in after[1:])
    with pytest.raises(CheckpointError, match=r"cannot go on with scenario.channel_bank=None"):
        train_command([f"resume={path}", "scenario.channel_bank=null", "trainer.epochs=4"])


def test_a_schedule_in_time_is_refused_on_a_channel_bank(run, bank, tmp_path):
    given = [f"ckpt={run}", f"scenario.channel_bank={bank}", f"out={tmp_path}", "evaluation.slots=3", "drops=2"]
    with pytest.raises(ConfigError, match=r"set evaluation.slots=0, or scenario.channel_bank=null"):
        evaluate_command(given)


@pytest.mark.slow
def test_a_finished_run_goes_on_when_it_is_given_more_epochs(run, monkeypatch):
    before = metrics(run)
    train_command([f"resume={run}", "trainer.epochs=3", "trainer.progress=false"])
    after = metrics(run)
    assert [row["environment_steps"] for row in after] == ["0", "16", "32", "48", "64", "80", "96"]
    assert after[3]["losses/critic"] == before[3]["losses/critic"]
    assert json.loads((run / "timing.json").read_text())["updates"] == 12
    assert load_config([f"conf={run / 'config.yaml'}"]).trainer.epochs == 3
    assert load_checkpoint(run / "checkpoints/last.ckpt")["d2rl"]["updates"] == 12


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_so_and_can_go_on(tmp_path, number, status):
    arguments = [*PLAN, "trainer.epochs=5000", "evaluation.every=1000", "run_dir=run"]
    last = tmp_path / "run/checkpoints/last.ckpt"
    with subprocess.Popen(
        command("train.py", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
    ) as process:
        deadline = time.monotonic() + 600
        while not last.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(number)
        _, message = process.communicate(timeout=600)
    assert process.returncode == status, message
    updates = load_checkpoint(last)["d2rl"]["updates"]
    assert message.splitlines()[-1].endswith(f"saved at update {updates}; go on with resume=run/checkpoints/last.ckpt")
    assert "Traceback" not in message
    assert len(metrics(tmp_path / "run")) > 1
    assert json.loads((tmp_path / "run/timing.json").read_text())["updates"] == updates > 0


# ------------------------------------------------------------------ mistakes


def test_a_mistyped_key_is_one_line_and_status_2(tmp_path):
    done = call("train.py", "scenario.downlink_user=3", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(
        "config error: scenario.downlink_user is not a key. Did you mean scenario.downlink_users"
    )
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


class Evil:
    """What a checkpoint from a stranger may hold."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_not_run(finished, tmp_path):
    """Added to a checkpoint of a real run, under a checksum that fits."""
    trace, path = tmp_path / "trace", tmp_path / "evil.ckpt"
    content = load_checkpoint(finished[1] / "checkpoints/last.ckpt")
    write_checkpoint({**content, "callbacks": {"evil": Evil(trace)}}, path)
    torch.load(path, weights_only=False)
    assert trace.exists()  # it would have run
    trace.unlink()
    for action in (evaluate_command, train_command):
        with pytest.raises(CheckpointError, match=r"evil.ckpt holds more than plain data .* nothing of it was run"):
            action([f"ckpt={path}" if action is evaluate_command else f"resume={path}"])
    assert not trace.exists()


def test_weights_of_other_shapes_than_its_configuration_says_are_refused(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = load_checkpoint(finished[1] / "checkpoints/last.ckpt")
    name, tensor = next((name, one) for name, one in content["state_dict"].items() if name.startswith("aenpnn.encoder"))
    write_checkpoint({**content, "state_dict": {**content["state_dict"], name: tensor[..., :1]}}, "other.ckpt")
    for argument in ("ckpt=other.ckpt", "resume=other.ckpt"):
        with pytest.raises(CheckpointError, match=r"other\.ckpt holds weights of other shapes"):
            (evaluate_command if argument.startswith("ckpt") else train_command)([argument])


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_used_is_one_line_and_status_2(tmp_path):
    (tmp_path / "noise.ckpt").write_bytes(b"no checkpoint at all")
    done = call("eval.py", "ckpt=noise.ckpt", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == "evaluating noise.ckpt\n"
    assert done.stderr.startswith("checkpoint error: noise.ckpt is truncated, or not a checkpoint of d2rl")
    assert done.stderr.count("\n") == 1


def damage(kind: str, good: Path, path: Path) -> None:
    content = good.read_bytes()
    if kind == "empty":
        path.touch()
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "random":
        path.write_bytes(bytes(torch.randint(256, (4000,), generator=torch.Generator().manual_seed(0)).tolist()))
    elif kind == "overwritten":
        path.write_bytes(content[:200] + bytes(400) + content[600:])
    elif kind == "another":
        torch.save({"state_dict": {}, "epoch": 3}, path)
    elif kind == "hollow":
        write_checkpoint({"state_dict": {}, "d2rl": {}}, path)
    elif kind == "folder":
        path.mkdir()


@pytest.mark.parametrize(
    "kind", ["missing", "empty", "truncated", "random", "overwritten", "another", "hollow", "folder"]
)
def test_a_damaged_checkpoint_is_named(finished, tmp_path, kind):
    path = tmp_path / "some.ckpt"
    damage(kind, finished[1] / "checkpoints/last.ckpt", path)
    for action, key in ((evaluate_command, "ckpt"), (train_command, "resume")):
        with pytest.raises(CheckpointError, match=r"some\.ckpt") as caught:
            action([f"{key}={path}"])
        assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"scenario.downlink_users": 4},
        {"scenario.downlink_users": 2, "scenario.uplink_users": 3},  # as many coefficients
        {"scenario.transmit_antennas": 6},
    ],
    ids=str,
)
def test_an_mlp_checkpoint_of_another_cell_is_refused(mlp, change, tmp_path):
    with pytest.raises(CheckpointError, match="was trained for 3 \\+ 2 users") as caught:
        evaluate_command([f"ckpt={mlp}", f"out={tmp_path}", *(f"{key}={value}" for key, value in change.items())])
    assert "it cannot serve" in str(caught.value)
    assert "The link_graph network with the structured head serves any number of users" in str(caught.value)
    assert not (tmp_path / "eval.json").exists()


@pytest.mark.parametrize("change", ["network.width=16", "scenario.head=beamforming", "action.steps=4"])
def test_a_checkpoint_of_other_shapes_is_refused(finished, change, tmp_path):
    with pytest.raises(CheckpointError):
        evaluate_command([f"ckpt={finished[1]}", f"out={tmp_path}", change])
    assert not (tmp_path / "eval.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        *("network.width=16", "state.steps=5", "scenario.uplink_users=4", "scenario.loads=4+4", "trainer.num_envs=4"),
        *("ddpg.gamma=0.5", "reward.case=raw", "reward.generated=True"),
    ],
)
def test_a_run_does_not_go_on_with_what_it_is_tied_to_changed(run, change):
    before = (run / "config.yaml").read_text()
    key, _, value = change.partition("=")
    with pytest.raises(CheckpointError, match=re.escape(f"cannot go on with {key}={value}")):
        train_command([f"resume={run}", change])
    assert (run / "config.yaml").read_text() == before


def test_an_output_folder_that_cannot_be_written_is_named(finished, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ConfigError, match=r"out=.*file/here cannot be written: .*; choose another folder"):
        evaluate_command([f"ckpt={finished[1]}", f"out={tmp_path / 'file/here'}", "drops=2"])
    with pytest.raises(ConfigError, match=r"run_dir=.*file/run cannot be written: .*; choose another run_dir"):
        train_command([*PLAN, f"run_dir={tmp_path / 'file/run'}"])
    assert (tmp_path / "file").read_text() == "kept"


def test_a_run_is_not_written_over(run):
    before = {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(ConfigError, match="already holds a run"):
        train_command([*PLAN, f"run_dir={run}"])
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("action.steps=0",), "action.steps"),
        (("reward.steps=0",), "reward.steps"),
        (("state.steps=0",), "state.steps"),
        (("chi.eta=0",), "chi.eta"),
        (("chi.eta=1.5",), "chi.eta"),
        (("chi.maximum=2",), "chi.maximum"),
        (("stages.action=3", "stages.reward=1"), r"stages.action \(3\) would begin after stages.reward \(1\)"),
        (("stages.state=1", "stages.reward=2"), r"stages.reward \(2\) would begin after stages.state \(1\)"),
        (("trainer.updates_per_epoch=5",), r"trainer.updates_per_epoch \(5\) must be a multiple"),
        (("ddpg.replay=7",), r"ddpg.batch \(8\) is more than ddpg.replay \(7\)"),
        (("trainer.num_envs=65",), r"trainer.num_envs \(65\) is more than ddpg.replay \(64\)"),
        (("scenario.downlink_users=-1",), "scenario.downlink_users"),
        (("scenario.channel_bank=none.pt",), "none.pt does not exist; give the path of a channel bank"),
        (("scenario.bs_power=loud",), "scenario.bs_power"),
        (("scenario.csi_error=-0.1",), "scenario.csi_error"),
        (("trainer.precision=fp16",), "trainer.precision"),
        (("ddpg.replay=1e9",), r"ddpg\.replay=1000000000 needs .* of memory .* at most [\d,]+ states can be kept"),
        (("evaluation.weights=1,1,1,1",), "evaluation.weights=1,1,1,1 needs 5 numbers"),
        (("state.explorer=gaussian", "stages.state=0"), "state.explorer=gaussian makes states of a stored set"),
        (("conf=nowhere",), "conf=nowhere is not there. Available in conf"),
        pytest.param(
            ("trainer.accelerator=gpu",),
            "torch sees no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
    ids=str,
)
def test_an_impossible_configuration_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, capsys, arguments, named
):
    """Nor is it said that anything has begun."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=named) as caught:
        train_command([*PLAN, *arguments, "run_dir=run"])
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out in ("", "loading PyTorch\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "d2rl-eval needs ckpt=PATH"),
        (("ckpt=",), "ckpt= has no value"),
        (("ckpt=RUN", "out="), "out= has no value"),
        (("ckpt=RUN", "drops=0"), "evaluation.drops"),
        (("ckpt=RUN", "drop=4"), "drop is not a key"),
        (("ckpt=RUN", "best_of=0"), "evaluation.best_of"),
        (("ckpt=RUN", "drops=2", "evaluation.weights=1,2"), "weights=1,2 needs 5 numbers, one per link, got 2"),
        (("ckpt=RUN", "drops=2", "evaluation.weights=1,1,1,1,-1"), "none negative"),
        (("ckpt=RUN", "drops=2", "evaluation.weights=0,0,0,0,0"), "must not all be 0"),
        (("ckpt=RUN", "drops=2", "evaluation.weights=1,1,one,1,1"), "must be numbers with commas"),
        (("ckpt=RUN", "drops=2", "evaluation.weights=1,1,nan,1,1"), "finite"),
    ],
    ids=str,
)
def test_eval_refuses_what_it_cannot_use(finished, tmp_path, arguments, message):
    given = [one.replace("RUN", str(finished[1])) for one in arguments]
    out = [] if any(one.startswith("out=") for one in given) else [f"out={tmp_path}"]
    with pytest.raises(UserError, match=message) as caught:
        evaluate_command([*given, *out])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "eval.json").exists()
