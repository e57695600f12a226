"""A matrix becomes cells, and every mistake in it one message that names file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from d2rl.benchmark.cells import finish, finished
from d2rl.benchmark.matrix import PLACES, read_matrix
from d2rl.common.errors import ConfigError

MATRIX = """
baseline: ddpg
ours: full
variants:
  ddpg: {conf: ddpg, title: DDPG}
  full: [action.steps=3]
"""


@pytest.fixture
def write(tmp_path):
    """Write a matrix; gives the arguments that read it."""

    def write(text: str) -> list[str]:
        path = tmp_path / "m.yaml"
        path.write_text(text)
        return [f"conf={path}", f"out={tmp_path / 'out'}"]

    return write


def refusal(arguments: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        read_matrix(arguments)
    return str(caught.value)


def test_cells_are_variants_times_scenarios_times_seeds(write):
    matrix = read_matrix(
        [*write(MATRIX + "scenarios: {near: [], far: [scenario.cell_radius=200]}"), "seeds=3", "seed=7"]
    )
    assert len(matrix.cells) == len({cell.name for cell in matrix.cells}) == 12
    assert len({cell.fingerprint for cell in matrix.cells}) == 12
    assert {cell.seed for cell in matrix.cells} == {cell.config.seed for cell in matrix.cells} == {7, 8, 9}
    assert {cell.scenario: cell.config.scenario.cell_radius for cell in matrix.cells} == {"near": 100.0, "far": 200.0}
    assert matrix.cells[0].folder == matrix.out / "cells" / "ddpg-near-7"


def test_overrides_apply_in_order_and_each_cell_is_single_threaded_and_quiet(write):
    text = MATRIX + "set: [action.steps=2, trainer.epochs=4]\nscenarios: {one: [trainer.epochs=5]}"
    ddpg, full = (cell.config for cell in read_matrix([*write(text), "seeds=1"]).cells)
    assert (ddpg.action.steps, full.action.steps, full.trainer.epochs) == (2, 3, 5)
    assert ddpg.stages.action is None
    assert full.stages.action == 0
    last = read_matrix([*write(text), "seeds=1", "trainer.epochs=1"]).cells[1].config
    assert (last.trainer.epochs, last.trainer.threads, last.trainer.progress, last.logger.mode) == (
        1,
        1,
        False,
        "disabled",
    )


def test_only_one_cell_of_a_scenario_times_the_references(write):
    cells = read_matrix([*write(MATRIX), "seeds=2"]).cells
    assert [cell.name for cell in cells if cell.references] == ["full-default-0"]
    assert not any(cell.references for cell in read_matrix([*write(MATRIX), "latency=false"]).cells)


def test_a_finished_cell_is_out_of_date_when_its_configuration_changes(write):
    first = read_matrix([*write(MATRIX), "seeds=1"]).cells
    for cell in first:
        cell.folder.mkdir(parents=True)
        assert not finished(cell)
        finish(cell)
    assert all(map(finished, read_matrix([*write(MATRIX), "seeds=1"]).cells))
    changed = read_matrix([*write(MATRIX.replace("steps=3", "steps=4")), "seeds=1"]).cells
    assert [finished(cell) for cell in changed] == [True, False]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ours: full", "ours: ful", "ours cannot be 'ful'; it must be one of the variants. Did you mean full?"),
        ("ours: full", "", "ours is missing; it must be one of the variants ddpg or full."),
        ("variants:", "variant:", "variant is not a key. Did you mean variants"),
        ("action.steps=3", "action.step=3", "variants.full in scenario default: action.step is not a key."),
        ("action.steps=3", "action.steps=0", "action.steps cannot be 0; it must be a whole number at least 1"),
        ("action.steps=3", "seed=3", "variants.full: seed is set by the benchmark itself; leave it out."),
        ("conf: ddpg", "conf: dpg", "variants.ddpg in scenario default: conf=dpg is not there."),
        ("title: DDPG", "titel: DDPG", "variants.ddpg.titel is not a key. Did you mean variants.ddpg.title?"),
        ("[action.steps=3]", "action.steps=3", "variants.full cannot be 'action.steps=3' (text); it must be a list"),
        ("  full:", "  a-b:", "variants.a-b is no name for a folder; use letters, digits, _ and dots."),
        ("  full: [action.steps=3]", "  full: [action.steps=3", "is not valid YAML"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(write, old, new, message):
    assert old in MATRIX
    arguments = write(MATRIX.replace(old, new))
    text = refusal(arguments)
    assert text.startswith("config error: ")
    assert message in text
    assert "m.yaml" in text


def test_a_mistake_on_the_command_line_says_what_to_write(write):
    assert "seedz is not a key. Did you mean seed" in refusal([*write(MATRIX), "seedz=3"])
    assert "trainer.epochz is not a key. Did you mean trainer.epochs?" in refusal([*write(MATRIX), "trainer.epochz=3"])
    assert "logger.mode is set by the benchmark itself" in refusal([*write(MATRIX), "logger.mode=online"])
    assert "benchmark conf=headlin is not there. Available in conf/benchmarks or" in refusal(["conf=headlin"])
    assert "conf=NAME is missing; available in" in refusal(["seeds=2"])


CONTINUED = """
baseline: ddpg
ours: full
variants:
  ddpg: {conf: ddpg}
  again: {conf: ddpg, initial: ddpg}
  full: {initial: {variant: ddpg, scenario: far}}
scenarios: {default: [], far: [scenario.cell_radius=200], loud: [scenario.self_interference=-70]}
"""


def test_a_variant_with_a_start_has_cells_wherever_the_world_is_another(write):
    cells = {cell.name: cell for cell in read_matrix([*write(CONTINUED), "seeds=2", "seed=4"]).cells}
    assert {name for name in cells if name.endswith("-4")} == {
        *("ddpg-default-4", "ddpg-far-4", "ddpg-loud-4"),
        *("again-far-4", "again-loud-4", "full-default-4", "full-loud-4"),
    }
    assert {name: cell.needs for name, cell in cells.items() if name.startswith("again")} == {
        **{f"again-{scenario}-{seed}": f"ddpg-default-{seed}" for scenario in ("far", "loud") for seed in (4, 5)}
    }
    assert cells["full-loud-5"].needs == "ddpg-far-5"
    assert f"initial={cells['ddpg-far-5'].folder}" in cells["full-loud-5"].arguments
    assert cells["ddpg-far-5"].needs is None


def test_a_cell_is_out_of_date_when_the_one_it_starts_from_changes(write, tmp_path):
    def prints(*changes: tuple[str, str]) -> dict[str, str]:
        text = CONTINUED
        for old, new in changes:
            text = text.replace(old, new)
        return {cell.name: cell.fingerprint for cell in read_matrix([*write(text), "seeds=1"]).cells}

    before = prints()
    changed = prints(("default: []", "default: [scenario.speed=9]"))
    assert {name for name in before if before[name] != changed[name]} == {
        *("ddpg-default-0", "full-default-0", "again-far-0", "again-loud-0"),
    }
    moved = read_matrix([*write(CONTINUED), "seeds=1", f"out={tmp_path / 'elsewhere'}"]).cells
    assert {cell.name: cell.fingerprint for cell in moved} == before
    assert prints((", initial: ddpg", ""))["again-far-0"] != before["again-far-0"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "initial: ddpg",
            "initial: dpg",
            "variants.again.initial cannot be 'dpg'; it must be one of the variants without",
        ),
        (
            "initial: ddpg",
            "initial: full",
            "variants.again.initial cannot be 'full'; it must be one of the variants without",
        ),
        (
            "scenario: far",
            "scenario: fer",
            "variants.full.initial.scenario cannot be 'fer'; it must be one of the scenarios",
        ),
        ("scenario: far", "seed: 3", "variants.full.initial cannot be"),
        ("initial: ddpg", "initial: [ddpg]", "variants.again.initial cannot be"),
        ("initial: ddpg", "initail: ddpg", "variants.again.initail is not a key. Did you mean variants.again.initial?"),
        ("initial: ddpg", "set: [initial=x]", "variants.again.set: initial is set by the benchmark itself"),
        ("default: [], far:", "near: [], far:", "variants.again.initial.scenario cannot be 'default'"),
    ],
)
def test_a_start_that_cannot_be_is_named(write, old, new, message):
    assert old in CONTINUED
    assert message in refusal(write(CONTINUED.replace(old, new)))


def test_a_start_that_a_conf_brings_along_is_refused_since_no_fingerprint_would_tell_of_it(write, tmp_path):
    (tmp_path / "mine.yaml").write_text("{defaults: ddpg, initial: some/run}")
    text = CONTINUED.replace("ddpg: {conf: ddpg}", f"ddpg: {{conf: {tmp_path / 'mine.yaml'}}}")
    assert "variants.ddpg: conf=" in refusal(write(text))
    assert "mine.yaml gives initial, which the benchmark itself sets" in refusal(write(text))


def test_a_start_needs_a_second_scenario(write):
    text = MATRIX.replace("full: [action.steps=3]", "full: {initial: ddpg}")
    assert "variants.full.initial needs a scenario besides default" in refusal(write(text))


@pytest.mark.parametrize("path", sorted(PLACES[1].glob("*.yaml")), ids=lambda path: path.stem)
def test_every_benchmark_that_is_shipped_can_be_read(path: Path):
    matrix = read_matrix([f"conf={path.stem}", "seeds=1"])
    assert len({cell.fingerprint for cell in matrix.cells}) == len(matrix.cells) > 1
