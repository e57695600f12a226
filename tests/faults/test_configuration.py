"""A short form of ``python tests/faults/fuzz_configuration.py``: generated configurations run or name the key."""

from __future__ import annotations

import pytest
from fuzz_configuration import call_process, judge, one_step, quiet, verdict
from odd_configurations import Case, cases

FINE = ("ran", "refused")


@pytest.fixture(autouse=True, scope="module")
def shortened():
    """Trainings of one step, without W&B."""
    quiet()
    with one_step():
        yield


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] * (number >= 16)) for number, case in enumerate(cases(60, seed=6))],
    ids=lambda case: f"{case.kind} {case.arguments[0][:30]}",
)
def test_a_configuration_runs_or_is_refused_with_its_key(case):
    assert judge(case) in FINE


@pytest.mark.slow
def test_a_case_as_a_person_runs_it():
    assert judge(Case("value", ("ddpg.batch=1e400",), ("ddpg.batch",)), call_process) == "refused"


@pytest.mark.parametrize(
    ("status", "errors", "found"),
    [
        (0, "Traceback (most recent call last):\nKeyError: 'x'", "a traceback"),
        (1, "KeyError: 'x'", "status 1"),
        (2, "config error: seed cannot be 'x'.\nand more", "not one message"),
        (2, "Traceback", "not one message"),
        (2, "config error: that is wrong.", "no key is named"),
        (2, "config error: seed cannot be 'x'.", "refused"),
        (0, "", "ran"),
    ],
)
def test_what_breaks_the_rule_is_seen(status, errors, found):
    assert verdict(Case("value", ("seed=x",), ("seed",)), status, errors).startswith(found)


def test_a_program_that_fails_is_seen():
    def broken(case, place):
        raise KeyError("x")

    assert judge(Case("value", ("seed=x",), ("seed",)), broken).startswith("KeyError")


def test_the_same_seed_gives_the_same_cases():
    assert cases(200, seed=1) == cases(200, seed=1)
    assert len({(case.arguments, case.file) for case in cases(600, seed=0)}) > 500
