"""report.html of a problem that is judged over episodes."""

from __future__ import annotations

import re
from html import unescape

import pytest

from d2rl.evaluation.episodes import EpisodeEvaluation
from d2rl.problems import load_config, make_problems
from d2rl.report.page import PAGE, save_report_page

SMALL = (
    *("scenario.downlink_users=2", "scenario.uplink_users=2", "scenario.episode_length=4"),
    *("scenario.transmit_antennas=4", "scenario.receive_antennas=4", "traffic.load=3"),
)


@pytest.fixture
def page(tmp_path) -> str:
    """The page of a policy that goes round, beside MaxWeight."""
    config = load_config(["conf=traffic", *SMALL])
    problem = make_problems(config)[0]
    evaluation = EpisodeEvaluation(problem, 3, 0)
    evaluation.score("d2rl", problem.references()["round_robin"])
    evaluation.score("maxweight", problem.references()["maxweight"])
    written = save_report_page(tmp_path, config, evaluation, evaluation.report())
    assert written == tmp_path / PAGE
    return written.read_text(encoding="utf-8")


def test_policies_metrics_and_configuration_stand_there(page):
    rows = re.findall(r'<th scope="row">(\w+)</th>', page)
    assert rows[:2] == ["d2rl", "maxweight"]
    for text in ("3 episodes", "mean delay (slots)", "throughput (bit/s/Hz)", "traffic.load", "files of the training"):
        assert text in page
    assert "jain (1)" not in page


def test_queues_and_delays_are_drawn_and_told_in_words(page):
    pictures = [unescape(alt) for alt in re.findall(r'<img src="data:image/svg\+xml;base64,[^"]+" alt="([^"]+)"', page)]
    assert len(pictures) == 2
    assert re.search(r"Backlog .* d2rl [\d.]+, maxweight [\d.]+", pictures[0])
    assert re.search(r"wait at all: d2rl [\d.]+%, maxweight [\d.]+%", pictures[1])
