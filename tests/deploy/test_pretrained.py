"""Policy folders: what ships, what they hold, what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.decisions import DecisionRule
from d2rl.algorithm.policy import Policy
from d2rl.commands.make_pretrained import pretrained_command
from d2rl.commands.train_eval import evaluate_command, train_command
from d2rl.common.errors import CheckpointError, ConfigError
from d2rl.deploy.pretrained import CONFIG, FORMAT, REPORT, SHIPPED, WEIGHTS, _digest, load_policy, save_policy
from d2rl.evaluation import evaluate as evaluation
from d2rl.evaluation.episodes import EpisodeEvaluation
from d2rl.evaluation.evaluate import policy_of
from d2rl.problems.full_duplex import references
from d2rl.problems.full_duplex.simulator import evaluation_states
from d2rl.wireless import link_rates

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def quick_references(monkeypatch, request):
    """What is timed, and how well WMMSE does, is tested elsewhere."""
    monkeypatch.setattr(evaluation, "LATENCY_SECONDS", 0.0)
    if "beats" not in request.node.name:
        monkeypatch.setattr(references, "LIMIT", 10)


@pytest.fixture(
    params=[pytest.param(True, id="diffusion"), pytest.param(False, id="deterministic", marks=pytest.mark.slow)]
)
def agent(tiny, request) -> D2RL:
    """A small agent of either kind, with weights of its own."""
    torch.manual_seed(5)
    agent = D2RL(tiny())
    agent.stages["action"] = request.param
    for parameter in agent.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return agent


@pytest.fixture
def folder(agent, tmp_path) -> Path:
    """Its policy folder."""
    save_policy(agent, {"drops": 3}, tmp_path / "policy")
    return tmp_path / "policy"


def rewrite(folder: Path, weights: dict[str, torch.Tensor], form: str = FORMAT) -> None:
    """Weights with a right checksum."""
    metadata = {"format": form, "sha256": _digest(weights)}
    safetensors.torch.save_file(weights, folder / WEIGHTS, metadata)


# ------------------------------------------------------------------ what ships


def test_what_ships_is_small_and_beats_the_closed_forms_without_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (SHIPPED / WEIGHTS).stat().st_size < 1e6
    before = (SHIPPED / REPORT).read_bytes()
    evaluate_command(["ckpt=pretrained", "drops=32", "best_of=4"])
    report = json.loads((tmp_path / "runs" / SHIPPED.name / "eval.json").read_text())
    assert report["drops"] == 32
    assert report["policies"]["d2rl"]["wmmse_ratio"] > 0.95
    assert (SHIPPED / REPORT).read_bytes() == before


@pytest.mark.slow
def test_what_ships_serves_other_users_and_antennas(tmp_path):
    other = {"downlink_users": 7, "uplink_users": 3, "transmit_antennas": 10, "receive_antennas": 6}
    evaluate_command(
        ["ckpt=pretrained", f"out={tmp_path}", "drops=16", *(f"scenario.{k}={v}" for k, v in other.items())]
    )
    report = json.loads((tmp_path / "eval.json").read_text())
    assert other.items() <= report["scenario"].items()
    assert report["policies"]["d2rl"]["sum_rate"] > report["policies"]["rzf"]["sum_rate"]


@pytest.mark.slow
def test_the_policy_for_any_load_serves_far_more_users_than_antennas(tmp_path):
    many = ("scenario.downlink_users=12", "scenario.uplink_users=12")
    evaluate_command(["ckpt=pretrained/any_load", f"out={tmp_path}", "drops=16", *many])
    assert json.loads((tmp_path / "eval.json").read_text())["policies"]["d2rl"]["wmmse_ratio"] > 0.7


@pytest.mark.parametrize(
    ("name", "users"), [("traffic", (6, 4)), ("traffic_any_load", (12, 12)), ("traffic_any_load", (2, 12))]
)
def test_the_policies_for_queues_let_less_wait_than_a_scheduler(name, users):
    cell = [f"scenario.downlink_users={users[0]}", f"scenario.uplink_users={users[1]}"]
    policy, path = load_policy(f"pretrained/{name}", ["scenario.episode_length=15", *cell])
    assert path.stat().st_size < 1e6
    evaluation = EpisodeEvaluation(policy.problem, 6, 3)
    ours, other = policy_of(policy, DecisionRule()), evaluation.references["proportional_fair"]
    assert evaluation.judge(ours)["mean_delay"] < 0.9 * evaluation.judge(other)["mean_delay"]


@pytest.mark.parametrize("name", ["pretrained", "pretrained/any_load"])
def test_the_evaluation_that_ships_is_that_of_the_policy_that_ships(name):
    folder = SHIPPED if name == "pretrained" else SHIPPED.parent / "any_load"
    report = json.loads((folder / REPORT).read_text())
    policy, path = load_policy(name)
    assert path == folder / WEIGHTS
    assert path.stat().st_size < 1e6
    settings = policy.config.evaluation
    cells = evaluation_states(policy.config.scenario, settings.drops, settings.seed)
    rates = link_rates(cells.channels, *policy_of(policy, DecisionRule())(cells))
    assert report["drops"] == settings.drops
    assert float(rates.sum(-1).mean()) == pytest.approx(report["policies"]["d2rl"]["sum_rate"], rel=1e-3)


# ------------------------------------------------------------------ what a folder holds


def test_a_policy_folder_decides_as_the_agent_that_it_was_made_of(agent, folder):
    cells = evaluation_states(agent.config.scenario, 8, seed=1)
    loaded, path = load_policy(folder)
    assert path == folder / WEIGHTS
    for rule in (DecisionRule(), DecisionRule(best_of=3, priority_spread=0.3)):
        for found, expected in zip(policy_of(loaded, rule)(cells), policy_of(agent, rule)(cells), strict=True):
            assert torch.equal(found, expected)


def test_only_the_weights_that_decisions_need_are_kept(agent, folder):
    prefix = "aenpnn." if agent.stages["action"] else "actor."
    weights = safetensors.torch.load_file(folder / WEIGHTS)
    assert set(weights) == {name for name in agent.state_dict() if name.startswith(prefix)}
    assert json.loads((folder / REPORT).read_text()) == {"drops": 3}
    assert sorted(path.name for path in folder.iterdir()) == sorted((WEIGHTS, CONFIG, REPORT))


def test_the_file_itself_may_be_given(folder):
    assert load_policy(folder / WEIGHTS, ["evaluation.drops=5"])[0].config.evaluation.drops == 5


def test_evaluating_a_policy_folder_leaves_its_evaluation_alone(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate_command([f"ckpt={folder}", "drops=4"])
    assert json.loads((folder / REPORT).read_text()) == {"drops": 3}
    assert json.loads((tmp_path / "runs/policy/eval.json").read_text())["drops"] == 4


@pytest.mark.slow
def test_the_command_makes_a_folder_of_what_eval_can_evaluate(folder, tmp_path, capsys):
    pretrained_command([f"ckpt={folder}", f"out={tmp_path / 'mine'}", "drops=4"])
    assert f"written: {tmp_path / 'mine' / WEIGHTS}" in capsys.readouterr().out
    made = json.loads((tmp_path / "mine" / REPORT).read_text())
    assert made["drops"] == 4
    evaluate_command([f"ckpt={tmp_path / 'mine'}", f"out={tmp_path / 'again'}"])
    again = json.loads((tmp_path / "again/eval.json").read_text())
    assert again["policies"]["d2rl"]["sum_rate"] == made["policies"]["d2rl"]["sum_rate"]


# ------------------------------------------------------------------ what is refused


class Evil:
    """What a file from a stranger may hold."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_policy_is_not_run(folder, tmp_path, writer):
    trace = tmp_path / "trace"
    if writer == "torch":
        torch.save({"actor.output.linear.weight": Evil(trace)}, folder / WEIGHTS)
    else:
        (folder / WEIGHTS).write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS} cannot be read, it is damaged or not a policy"):
        load_policy(folder)
    assert not trace.exists()


def damage(kind: str, folder: Path) -> None:
    path = folder / WEIGHTS
    content, weights = bytearray(path.read_bytes()), safetensors.torch.load_file(path)
    first = sorted(name for name, tensor in weights.items() if tensor.dim() == 2)[0]
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        content[-5] ^= 8
        path.write_bytes(content)
    elif kind == "overwritten":
        path.write_bytes(content[:20] + bytes(40) + content[60:])
    elif kind == "nan":
        weights[first][0, 0] = torch.nan
        rewrite(folder, weights)
    elif kind == "missing":
        rewrite(folder, {name: tensor for name, tensor in weights.items() if name != first})
    elif kind == "further":
        rewrite(folder, {**weights, f"{first}.more": weights[first].clone()})
    elif kind == "shape":
        rewrite(folder, {**weights, first: weights[first][:, :-1].contiguous()})
    elif kind == "type":
        rewrite(folder, {**weights, first: weights[first].double()})
    elif kind == "no policy":
        rewrite(folder, {"weight": weights[first]})
    elif kind == "format":
        rewrite(folder, weights, "another 7")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("empty", "cannot be read"),
        ("truncated", "cannot be read"),
        ("flipped", "its checksum is wrong"),
        ("overwritten", "cannot be read"),
        ("nan", "it holds NaN or infinite weights"),
        ("format", "its format is 'another 7'"),
        ("missing", "does not fit the config.yaml beside it: .* is missing"),
        ("further", "does not fit the config.yaml beside it: .*more is none of its weights"),
        ("shape", r"does not fit the config.yaml beside it: .* instead of \(\d+, \d+\)"),
        ("type", "does not fit the config.yaml beside it: .*float64 instead of"),
        ("no policy", "does not fit the config.yaml beside it"),
    ],
)
def test_a_damaged_policy_is_refused_with_the_reason(folder, kind, reason):
    damage(kind, folder)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_policy(folder)
    assert str(folder / WEIGHTS) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_policy_without_its_configuration_is_refused(folder):
    (folder / CONFIG).unlink()
    with pytest.raises(CheckpointError, match=r"config.yaml beside it is missing"):
        load_policy(folder)


@pytest.mark.parametrize(
    ("given", "meant"), [("pretraind", "pretrained"), ("pretrained/anyload", "pretrained/any_load")]
)
def test_a_mistyped_name_is_answered_with_those_that_ship(given, meant):
    with pytest.raises(CheckpointError, match=rf"{given} does not exist\. Did you mean {meant}\? Those that ship are "):
        load_policy(given)


@pytest.mark.parametrize("key", ["resume", "initial"])
def test_a_policy_alone_cannot_be_trained_further(key, tmp_path):
    with pytest.raises(CheckpointError, match=rf"{key}=pretrained is a policy alone"):
        train_command([f"{key}=pretrained", f"run_dir={tmp_path / 'run'}", "logger.mode=disabled"])
    assert not any(tmp_path.iterdir())


def test_a_folder_without_weights_is_no_policy(folder):
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        load_policy(folder)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_policy(folder / WEIGHTS)


def test_other_settings_of_the_networks_are_refused(folder):
    with pytest.raises(CheckpointError, match=r"other settings of the networks"):
        load_policy(folder, ["network.layers=2"])


@pytest.mark.parametrize("change", ["network.width=16", "scenario.head=beamforming"])
def test_a_policy_of_other_shapes_is_refused(folder, change):
    with pytest.raises(CheckpointError, match=r"was trained for 3 \+ 2 users .* it cannot serve"):
        load_policy(folder, [change])


def test_an_mlp_policy_is_refused_for_another_cell(tiny, tmp_path):
    save_policy(D2RL(tiny("network.kind=mlp")), {}, tmp_path)
    with pytest.raises(CheckpointError, match=r"was trained for 3 \+ 2 users .* it cannot serve 2 \+ 3"):
        load_policy(tmp_path, ["scenario.downlink_users=2", "scenario.uplink_users=3"])


def test_weights_of_other_shapes_for_the_same_problem_are_said_to_be_of_another_version(tiny):
    config = tiny()
    weights = Policy(config, True).state_dict()
    weights["aenpnn.condition.bias"] = weights["aenpnn.condition.bias"][:-1]
    with pytest.raises(CheckpointError, match=r"mine holds weights of other shapes .* start a new run"):
        Policy.of(config, weights, config, "mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("out=there",), "needs ckpt=PATH"),
        (("ckpt=pretrained",), "needs out=DIR"),
        (("ckpt=pretrained", "out=file/there", "drops=2"), "out=file/there cannot be written"),
    ],
    ids=str,
)
def test_the_command_refuses_what_it_cannot_use(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ConfigError, match=message):
        pretrained_command(list(arguments))
    assert (tmp_path / "file").read_text() == "kept"
