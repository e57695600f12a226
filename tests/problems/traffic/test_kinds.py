"""Kinds of arrivals by direction and by link, from one text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from d2rl.commands.train_eval import evaluate_command
from d2rl.common.errors import ConfigError
from d2rl.config.defaults import FullDuplexConfig
from d2rl.deploy.pretrained import load_policy
from d2rl.problems import check_config, check_files, load_config, make_problems
from d2rl.problems.traffic.kinds import kinds_of

CELL = FullDuplexConfig(downlink_users=3, uplink_users=2)
BAD = {
    "bursty": "'bursty' is no kind of arrivals; there are on_off, poisson",
    "on_off+periodical": "'periodical' is no kind of arrivals; .* Did you mean periodic",
    "on_off+": "'' is no kind of arrivals",
    "on_off,periodic": "does not tell downlink from uplink; write KIND or DOWNLINK[+]UPLINK",
    "on_off,on_off,on_off,periodic,periodic": "does not tell downlink from uplink",
    "on_off+periodic+poisson": "does not tell downlink from uplink",
    "on_off,poisson+periodic": "has 2 downlink kinds, and a cell of 3[+]2 has 3 users there; write one for all",
    "on_off+periodic,periodic,poisson": "has 3 uplink kinds, and a cell of 3[+]2 has 2 users there",
}


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("poisson", ["poisson"] * 5),
        ("on_off+periodic", ["on_off"] * 3 + ["periodic"] * 2),
        ("on_off, poisson, full_buffer + periodic", ["on_off", "poisson", "full_buffer", "periodic", "periodic"]),
        ("trace+poisson,periodic", ["trace"] * 3 + ["poisson", "periodic"]),
    ],
)
def test_a_text_says_the_kind_of_every_link(text, kinds):
    assert list(kinds_of(text, CELL)) == kinds


def test_a_direction_without_users_has_no_kinds():
    assert kinds_of("periodic+on_off", replace(CELL, uplink_users=0)) == ("periodic",) * 3
    with pytest.raises(ConfigError, match=r"has 2 uplink kinds, and a cell of 3[+]0 has 0 users there"):
        kinds_of("periodic+on_off,on_off", replace(CELL, uplink_users=0))


@pytest.mark.parametrize("text", BAD)
def test_a_text_that_fits_no_cell_is_one_message(text):
    config = load_config(
        ["problem=traffic", "scenario.downlink_users=3", "scenario.uplink_users=2", f"traffic.arrivals={text}"]
    )
    for check in (check_config, check_files):
        with pytest.raises(ConfigError, match=BAD[text]):
            check(config)


def test_a_list_for_the_users_of_one_cell_does_not_fit_those_of_several():
    lists = "traffic.arrivals=on_off,on_off,on_off,on_off,poisson,poisson+periodic"
    with pytest.raises(ConfigError, match=r"has 6 downlink kinds, and a cell of 2[+]8 has 2 users there"):
        check_config(load_config(["problem=traffic", lists, "scenario.loads=6+2,2+8"]))
    several = load_config(["problem=traffic", "traffic.arrivals=on_off+periodic", "scenario.loads=2+2,8+8"])
    check_config(several)
    kinds = [problem.cells.arrivals.kinds for problem in make_problems(several)]
    assert kinds == [("on_off",) * down + ("periodic",) * up for down, up in ((6, 4), (2, 2), (8, 8))]


def test_a_policy_of_many_loads_is_evaluated_with_a_list_for_one_cell():
    keys = ["scenario.downlink_users=2", "scenario.uplink_users=1", "traffic.arrivals=on_off,poisson+periodic"]
    policy, _ = load_policy("pretrained/traffic_any_load", keys)
    check_files(policy.config)
    assert policy.problem.examples(2, 0).queues.shape == (2, 3)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("traffic.arrivals=on_off,periodic", "does not tell downlink from uplink"),
        ("traffic.arrivals=trace+periodic", r"traffic\.trace=null; name the file"),
        ("traffic.uplink_deadline=40", r"traffic\.uplink_deadline \(40\) must be below traffic\.ages"),
    ],
)
def test_an_evaluation_refuses_what_does_not_fit_its_cell(tmp_path, asked, told):
    with pytest.raises(ConfigError, match=told):
        evaluate_command(["ckpt=pretrained/traffic", f"out={tmp_path / 'none'}", asked])
    assert not (tmp_path / "none").exists()
