"""Scripts of speed in benchmarks/, at tiny sizes; and that work is counted as it should be."""

from __future__ import annotations

import sys

import pytest
import torch
from conftest import SCRIPTS, read_csv

from d2rl.algorithm.agent import D2RL
from d2rl.common.errors import ConfigError
from d2rl.deploy import export
from d2rl.deploy.real_decision import RealDecision
from d2rl.problems.full_duplex import references
from d2rl.problems.full_duplex.simulator import evaluation_states
from d2rl.wireless import link_rates

TINY = ("device=cpu", "rounds=1", "matrix=32", "megabytes=1")


def test_no_script_hides_a_module_of_the_standard_library(script):
    assert not {path.stem for path in SCRIPTS.glob("*.py")} & sys.stdlib_module_names


@pytest.mark.parametrize("name", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_every_script_finds_what_it_imports(script, name):
    script(name)


def test_the_machine_is_measured(script, tmp_path):
    script("machine").machine_command([*TINY, f"out={tmp_path / 'm.csv'}"])
    (row,) = read_csv(tmp_path / "m.csv")
    assert float(row["fp32 matrix rate (GFLOP/s)"]) > 0
    assert float(row["copy, read + written (GB/s)"]) > 0


@pytest.mark.slow
def test_updates_are_measured_along_axes(script, tmp_path, tiny_arguments, monkeypatch):
    given = ["only=batch,antennas", "batch=4,8", "antennas=9", "replay=64"]
    updates = script("updates")
    small = {name: [*variant, *tiny_arguments] for name, variant in updates.VARIANTS.items()}
    monkeypatch.setattr(updates, "VARIANTS", small)
    updates.updates_command([*TINY, *given, f"out={tmp_path / 'u.csv'}"])
    rows = read_csv(tmp_path / "u.csv")
    assert all(float(row["MFLOP"]) > 0 and float(row["of matrix rate"]) > 0 for row in rows)
    by_point = {}
    for row in rows:
        by_point.setdefault((row["axis"], row["value"]), {})[row["variant"]] = float(row["MFLOP"])
    everything = set(updates.VARIANTS)
    assert by_point["as configured", ""].keys() == everything
    assert by_point["antennas", "9"].keys() == everything
    assert all(by_point["batch", "8"][name] > by_point["batch", "4"][name] for name in everything)


def test_environment_steps_are_measured(script, tmp_path):
    given = ["cells=2,4", "users=3", "antennas=2", "fixed=2", f"out={tmp_path / 'e.csv'}"]
    script("environment").environment_command([*TINY, *given])
    rows = read_csv(tmp_path / "e.csv")
    assert len(rows) == 12
    assert [float(row["growth"]) for row in rows if row["value"] == "2" and row["axis"] == "cells"] == [1, 1, 1]


@pytest.mark.slow
def test_decisions_are_timed_beside_wmmse(script, tmp_path, monkeypatch):
    monkeypatch.setattr(references, "LIMIT", 5)
    given = ["batch=1,2", "users=3", "antennas=2", "onnx=false", f"out={tmp_path / 'd.csv'}"]
    decision = script("decision")
    decision.decision_command([*TINY, *given])
    rows = read_csv(tmp_path / "d.csv")
    assert len(rows) == 4 * (len(decision.RULES) + len(decision.REFERENCES))
    reference = [row for row in rows if row["decision"] == decision.REFERENCE]
    assert [float(row["WMMSE's / its"]) for row in reference] == [1] * 4
    assert all(float(row["MFLOP"]) > 0 for row in rows)


@pytest.mark.slow
def test_exported_decisions_are_those_of_the_policy_and_are_refined(script, tiny):
    pytest.importorskip("onnxruntime")
    agent = D2RL(tiny("trainer.num_envs=1")).eval()
    agent.begin_stage("action")
    state = evaluation_states(agent.config.scenario, 1, 0)
    decision = script("decision")
    policies = decision.exported(agent, state)
    assert policies.keys() == decision.EXPORTED.keys()
    example = RealDecision(agent)
    known = agent.problem.known(state)
    *_, noise = example.inputs(known, torch.Generator().manual_seed(0)).values()
    for found, expected in zip(policies["policy, ONNX"](state), example.decide(known, noise), strict=True):
        torch.testing.assert_close(found, expected, atol=export.PARITY, rtol=0)
    names = [name for name, (best_of, _) in decision.EXPORTED.items() if best_of > 1]
    plain, refined = (link_rates(state.estimate, *policies[name](state)).sum() for name in names)
    assert refined > plain


@pytest.mark.slow
def test_decisions_of_a_policy_are_the_same_wherever_they_are_made(script, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    deployed = script("deployed")
    monkeypatch.setattr(deployed, "LIMITS", (1, 20))
    monkeypatch.setattr(deployed, "STARTS", (1,))
    deployed.deployed_command([*TINY, "drops=4", "batch=1", "calls=1", f"out={tmp_path / 'd.csv'}"])
    rows = {row["decision"]: row for row in read_csv(tmp_path / "d.csv")}
    rates = {name: float(row["sum rate"]) for name, row in rows.items()}
    assert float(rows[deployed.REFERENCE]["share"]) == 1
    for rule in ("", ", best of 4", ", best of 16", ", best of 16, refine 5"):
        assert rates[f"ONNX{rule}"] == pytest.approx(rates[f"torch{rule}"], rel=1e-3)
    assert rates["torch, best of 16, refine 5"] > rates["torch, best of 16"] > rates["torch"]
    assert not rows["torch, best of 16"]["WMMSE as good"]  # 20 iterations do not get there
    assert rates["torch, bfloat16"] == pytest.approx(rates["torch"], rel=0.02)


@pytest.mark.slow
def test_the_profile_lists_sections_and_operators(script, tmp_path):
    script("profile_update").profile_command([*TINY, "steps=1", "replay=64", f"out={tmp_path / 'cpu.txt'}"])
    text = (tmp_path / "cpu.txt").read_text()
    for expected in ("aenpnn", "senpnn", "calls / update", "aten::addmm"):
        assert expected in text


@pytest.mark.parametrize("change", ["only=cell", "users=0", "users=4,", "cells=a"])
def test_axes_and_values_that_are_none_are_named(script, change):
    with pytest.raises(ConfigError, match=change.partition("=")[0]):
        script("environment").environment_command([*TINY, change])


def test_a_file_that_cannot_be_written_is_named(script, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ConfigError, match=r"out=.*file/m.csv cannot be written: .*; choose another file"):
        script("machine").machine_command([*TINY, f"out={tmp_path / 'file/m.csv'}"])


# ------------------------------------------------------------------ counting


def count(script, function):
    with script("machine").Work() as work:
        function()
    return work


def test_a_product_counts_two_flops_a_term_and_eight_for_complex_numbers(script):
    left, right = torch.ones(3, 4), torch.ones(4, 5)
    assert count(script, lambda: left @ right).flops == 2 * 3 * 4 * 5
    assert count(script, lambda: left.cfloat() @ right.cfloat()).flops == 8 * 3 * 4 * 5


def test_inference_mode_hides_no_product(script):
    layer, numbers = torch.nn.Linear(4, 5), torch.ones(3, 4)
    expected = count(script, lambda: layer(numbers))
    with torch.inference_mode():
        found = count(script, lambda: layer(numbers))
    assert (found.flops, found.operators) == (expected.flops, expected.operators)
    assert found.flops == 2 * 3 * 4 * 5


def test_solves_and_factorisations_count_for_every_matrix_of_a_batch(script):
    matrix, right = torch.eye(6).expand(2, 6, 6).contiguous(), torch.ones(2, 6, 3)
    assert count(script, lambda: torch.linalg.cholesky_ex(matrix)).flops == 2 * 6**3 / 3
    assert count(script, lambda: torch.linalg.solve(matrix, right)).flops == 2 * (2 / 3 * 6**3 + 2 * 6**2 * 3)
    assert count(script, lambda: torch.linalg.inv(matrix)).flops == 2 * 2 * 6**3
    triangular = count(script, lambda: torch.linalg.solve_triangular(matrix, right, upper=False))
    assert triangular.flops == 2 * 6**2 * 3


def test_bytes_are_what_goes_in_and_comes_out_and_views_are_free(script):
    values, one = torch.ones(10), torch.ones(1)
    assert count(script, lambda: values + values.view(10)).bytes == 3 * 40
    assert count(script, lambda: values + one.expand(10)).bytes == 2 * 40 + 4
    assert count(script, lambda: values.view(2, 5).mT).bytes == 0
    assert count(script, lambda: values.add_(1)).bytes == 2 * 40
    large = torch.ones(1000, 10)
    assert count(script, lambda: large.index_select(0, torch.tensor([3]))).bytes <= 2 * 40 + 2 * 8


def test_the_most_bytes_at_once_are_those_that_nothing_has_freed(script):
    def chain() -> None:
        for _ in range(5):
            torch.ones(100) + 1

    assert count(script, chain).peak == 2 * 400
    kept: list[torch.Tensor] = []
    assert count(script, lambda: kept.extend(torch.ones(100) for _ in range(5))).peak == 5 * 400
    given = torch.ones(100)
    assert count(script, lambda: given.add_(1).view(10, 10)).peak == 0


def test_no_factorisation_of_a_training_step_is_left_uncounted(script, tiny):
    agent = script("lightning_overhead").plain_agent(tiny("reward.case=designed_gdm", "stages.state=0"))
    agent.training_step(0, 0)
    with script("machine").Work() as work:
        agent.training_step(0, 0)
    assert work.uncounted == set()


def test_large_cells_are_measured_both_ways(script, tmp_path):
    given = ["links=2,4", "pairs=64", "width=4", "rounds=1", "device=cpu", f"out={tmp_path / 'l.csv'}"]
    script("large_cells").large_cells_command(given)
    rows = read_csv(tmp_path / "l.csv")
    assert [(row["links"], row["states"]) for row in rows] == [("2", "16"), ("4", "4")]
    assert all(float(row["ns / pair, blocks"]) > 0 for row in rows)


@pytest.mark.slow
def test_failures_of_the_paper_are_provoked(script, tmp_path, tiny_arguments):
    """Every case that was run has its line, and is not run again."""
    failures = script("paper_failures")
    small = [*tiny_arguments, "trainer.epochs=1", "evaluation.every=1"]
    for _ in range(2):
        failures.failures_command([f"out={tmp_path}", "seeds=1", "only=stopped,early", *small])
    rows = read_csv(tmp_path / "failures.csv")
    assert [row["case"] for row in rows] == [failures.CASES[name][0] for name in ("stopped", "early")]
    assert (tmp_path / "failures.png").stat().st_size > 0


@pytest.mark.slow
def test_processes_exchange_in_a_step_the_gradients_of_its_learner_alone(
    script, tmp_path, tiny, tiny_arguments, monkeypatch
):
    processes = script("processes")
    monkeypatch.setattr(processes, "CASES", {"tiny": ([], 1.0)})
    processes.processes_command(["devices=1,2", "updates=50", "rounds=1", f"out={tmp_path / 'p.csv'}", *tiny_arguments])
    alone, both = read_csv(tmp_path / "p.csv")
    assert float(alone["messages / update"]) == float(alone["kB / update"]) == 0
    agent = D2RL(tiny("conf=full_duplex"))
    learning = sum(
        weight.nbytes for name, one in agent.learners.items() for weight in one.module.parameters() if name != "actor"
    )
    assert learning / 1e3 <= float(both["kB / update"]) < 1.1 * learning / 1e3
