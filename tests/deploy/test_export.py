"""An exported file decides in onnxruntime as the policy does in torch."""

from __future__ import annotations

import math
import re
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.common.errors import CheckpointError, ConfigError
from d2rl.deploy import export
from d2rl.deploy.export import (
    ExportError,
    arrays,
    export_command,
    make_session,
    parity,
    trials,
)
from d2rl.deploy.pretrained import save_policy
from d2rl.deploy.real_decision import RealDecision
from d2rl.problems import load_config
from d2rl.problems.full_duplex.simulator import evaluation_states

MISSING = "the extra d2rl[export] is not installed"
onnx, onnxruntime, _ = (pytest.importorskip(name, reason=MISSING) for name in ("onnx", "onnxruntime", "onnxscript"))

ROOT = Path(__file__).resolve().parents[2]
OVERLOADED = (
    *("scenario.downlink_users=5", "scenario.uplink_users=5"),
    *("scenario.transmit_antennas=3", "scenario.receive_antennas=3"),
)
KINDS = {  # diffusion or deterministic, best_of, configuration; an export takes its time, so each covers a lot
    "link graph, diffusion": (True, 1, ()),
    "mlp, deterministic": (False, 2, ("network.kind=mlp", "scenario.head=beamforming", "network.width=16")),
    "downlink alone": (True, 3, ("scenario.uplink_users=0", "network.width=16", "action.steps=2", *OVERLOADED[2:])),
    "overloaded": (True, 3, ("scenario.head=switching", "network.width=16", "action.steps=2", *OVERLOADED)),
}


def make_agent(diffusion: bool, *overrides: str, seed: int = 0) -> D2RL:
    """An agent whose actions reach far from the middle of their range."""
    torch.manual_seed(seed)
    agent = D2RL(load_config(["trainer.num_envs=4", "ddpg.replay=64", *overrides]))
    agent.stages["action"] = diffusion
    for parameter in (*agent.actor.parameters(), *agent.aenpnn.parameters()):
        parameter.data += 0.1 * torch.randn_like(parameter)
    return agent


@pytest.fixture(
    scope="module",
    params=[pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS],
)
def exported(request, tmp_path_factory):
    """A file that the command wrote, the agent behind it and what the command printed."""
    diffusion, best_of, overrides = KINDS[request.param]
    place, agent = tmp_path_factory.mktemp("exported"), make_agent(diffusion, *overrides)
    save_policy(agent, {}, place / "policy")
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled(), pytest.MonkeyPatch.context() as patch:
        printed = open(place / "printed", "w+")  # noqa: SIM115
        patch.setattr(sys, "stdout", printed)
        export_command([f"ckpt={place / 'policy'}", f"out={place / 'policy.onnx'}", f"best_of={best_of}"])
    printed.seek(0)
    return place / "policy.onnx", agent, best_of, printed.read()


@pytest.mark.parametrize("batch", [1, 7])
def test_onnxruntime_decides_as_torch_does(exported, batch):
    path, agent, best_of, _ = exported
    decision, cells = RealDecision(agent, best_of), evaluation_states(agent.config.scenario, batch, seed=9)
    generator = torch.Generator().manual_seed(4)
    known = agent.problem.known(cells)
    inputs = decision.inputs(known, generator)
    if best_of > 1:
        inputs["proposal_weights"] = torch.exp(torch.randn(inputs["proposal_weights"].shape, generator=generator))
    precoder, power = make_session(onnxruntime, path.read_bytes()).run(["precoder", "uplink_power"], arrays(inputs))
    with torch.no_grad():
        expected = decision.decide(known, *list(inputs.values())[len(known) :])
    assert precoder.dtype == power.dtype == np.float32
    np.testing.assert_allclose(precoder, torch.view_as_real(expected[0]).numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(power, expected[1].numpy(), rtol=0, atol=1e-5)


def test_the_memory_of_complex_arrays_can_be_given_as_it_is(exported):
    path, agent, best_of, _ = exported
    cells = evaluation_states(agent.config.scenario, 2, seed=9)
    inputs = arrays(RealDecision(agent, best_of).inputs(agent.problem.known(cells), torch.Generator().manual_seed(0)))
    session = make_session(onnxruntime, path.read_bytes())
    expected, _ = session.run(None, inputs)
    for name, tensor in cells.estimate.tensors().items():
        inputs[name] = tensor.numpy().view(np.float32).reshape(*tensor.shape, 2)
    precoder, _ = session.run(None, inputs)
    np.testing.assert_allclose(precoder, expected, rtol=0, atol=1e-6)
    assert precoder.view(np.complex64).shape[-1] == 1
    assert np.square(precoder).sum((1, 2, 3)).max() <= 1 + 1e-6


def test_the_file_is_self_contained_standard_and_silent_about_its_machine(exported):
    path, agent, best_of, _ = exported
    content = path.read_bytes()
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert [path] == list(path.parent.glob("*.onnx*"))
    assert str(ROOT).encode() not in content
    assert b"site-packages" not in content
    assert len(content) < 1e6
    described = {entry.key: entry.value for entry in model.metadata_props}
    assert described["d2rl.best_of"] == str(best_of)
    assert described["d2rl.problem"] == str(agent.problem)


def test_the_command_prints_shapes_parity_and_both_latencies(exported):
    _, agent, best_of, printed = exported
    cell = agent.config.scenario
    assert f"input  downlink: ['batch', {cell.downlink_users}, {cell.transmit_antennas}, 2]" in printed
    assert f"output precoder: ['batch', {cell.transmit_antennas}, {cell.downlink_users}, 2]" in printed
    assert ("input  noise: " in printed) == agent.stages["action"]
    assert ("input  proposal_weights: " in printed) == (best_of > 1)
    found = re.search(r"difference from torch on 16 drops: (\S+) at most, (\S+) of the weighted utility", printed)
    assert float(found[1]) < 1e-5
    assert float(found[2]) < 1e-5
    found = re.search(r"one decision on one core, median of 200: onnxruntime (\S+) ms, torch (\S+) ms", printed)
    assert float(found[1]) > 0
    assert float(found[2]) > 0


def test_what_drops_seldom_hold_is_decided_as_in_torch(exported):
    path, agent, best_of, _ = exported
    cells, session = evaluation_states(agent.config.scenario, 4, seed=9), make_session(onnxruntime, path.read_bytes())
    tried, decision = {}, RealDecision(agent, best_of)
    for name, known, measure, limit in trials(agent.problem.known(cells)):
        found = parity(decision, session, known)
        tried[name] = limit, found.numbers, getattr(found, measure)
    assert tried.keys() >= {"a row of zeros in uplink", "two equal rows in downlink", "self_interference of zero"}
    assert all(rates <= limit and math.isfinite(numbers) for limit, numbers, rates in tried.values()), tried


def test_a_file_of_another_policy_is_noticed_and_not_written(exported, tmp_path, monkeypatch):
    path, agent, best_of, _ = exported
    session = make_session(onnxruntime, path.read_bytes())
    cells = evaluation_states(agent.config.scenario, 4, seed=0)
    assert max(parity(RealDecision(agent, best_of), session, agent.problem.known(cells))) < 1e-5
    other = deepcopy(agent)
    for parameter in (*other.actor.parameters(), *other.aenpnn.parameters()):
        parameter.data *= 1.1
    assert min(parity(RealDecision(other, best_of), session, other.problem.known(cells))[:2]) > 1e-3
    save_policy(other, {}, tmp_path / "other")
    monkeypatch.setattr(export, "to_bytes", lambda _: path.read_bytes())
    with pytest.raises(ExportError, match=r"its decisions (differ from|are worth).* those in torch.*was not written"):
        export_command([f"ckpt={tmp_path / 'other'}", f"out={tmp_path / 'other.onnx'}", f"best_of={best_of}"])
    assert not (tmp_path / "other.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("exported", ["link graph, diffusion"], indirect=True)
@pytest.mark.parametrize("block", [0, 1, 2])
def test_the_examples_of_the_documentation_run(exported, block, monkeypatch):
    path, _, _, _ = exported
    monkeypatch.chdir(path.parent)
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs/deployment.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 3
    found: dict = {}
    for example in examples[:2] if block == 1 else [examples[block]]:  # the second goes on from the first
        exec(example, found)
    assert found["uplink_power"].shape == ((16, 4), (16, 4), (1, 4))[block]
    if block == 2:
        assert found["w"].shape == (1, 8, 6)
        assert np.square(np.abs(found["w"])).sum() == pytest.approx(1, abs=1e-5)
    else:
        assert found["precoder"].shape == (16, 8, 8)


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("out=a.onnx",), "needs ckpt=PATH"),
        (("ckpt=pretrained",), "needs out=FILE"),
        (("ckpt=pretrained", "out=a.pt"), r"out=a.pt must be a file that ends in .onnx"),
        (("ckpt=pretrained", "out=a.onnx", "refine=2"), "refine and evaluation.noise cannot be exported"),
        (("ckpt=pretrained", "out=a.onnx", "best_of=0"), "evaluation.best_of"),
    ],
    ids=str,
)
def test_what_cannot_be_exported_is_said(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        export_command(list(arguments))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["file/a.onnx", "folder.onnx"])
def test_a_place_that_cannot_be_written_is_said_before_the_export(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("d2rl.deploy.export.load_policy", lambda *_: pytest.fail("the work had begun"))
    (tmp_path / "file").touch()
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ConfigError, match=rf"out={out} cannot be written: .*; choose another file"):
        export_command(["ckpt=pretrained", f"out={out}"])


def test_an_mlp_policy_is_not_exported_for_another_cell(tmp_path):
    save_policy(make_agent(False, *KINDS["mlp, deterministic"][2]), {}, tmp_path)
    with pytest.raises(CheckpointError, match=r"it cannot serve 5 \+ 4 users"):
        export_command([f"ckpt={tmp_path}", f"out={tmp_path / 'a.onnx'}", "scenario.downlink_users=5"])


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_is_named_with_the_extra(library, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf"the export needs {library}, .*pip install 'd2rl\[export\]'"):
        export_command(["ckpt=pretrained", f"out={tmp_path / 'a.onnx'}"])
