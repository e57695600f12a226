"""report.html: complete, self-contained, fit for a phone, and never a reason for a run to fail."""

from __future__ import annotations

import base64
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from d2rl.algorithm.agent import D2RL
from d2rl.commands.train_eval import evaluate, evaluate_command, train_command
from d2rl.envs import FullDuplexConfig
from d2rl.evaluation import evaluate as evaluation
from d2rl.evaluation.evaluate import Evaluation
from d2rl.problems.full_duplex import references
from d2rl.problems.full_duplex.problem import FullDuplexProblem
from d2rl.problems.full_duplex.simulator import evaluation_states
from d2rl.report.figures import FLOOR_DB, Cell
from d2rl.report.page import report_page, save_report_page
from d2rl.wireless import rzf
from d2rl.wireless.fading import steering
from d2rl.wireless.link_rates import downlink_powers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PHONE, DESKTOP = (390, 844), (1280, 900)
QUIET = ("disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update")


class Page(HTMLParser):
    """What a reader meets: pictures, references, ids, text."""

    def __init__(self, html: str):
        super().__init__()
        self.images, self.references, self.tags, self.text = [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        if tag == "img":
            self.images.append(given)
        self.references += [given[key] for key in ("src", "href", "srcset", "action", "data") if key in given]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module", autouse=True)
def quick_references():
    """What is timed, and how well WMMSE does, is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "LATENCY_SECONDS", 0.0)
        patch.setattr(references, "LIMIT", 5)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_arguments) -> Path:
    """A tiny run of train.py with every stage."""
    path = tmp_path_factory.mktemp("work") / "tiny run"
    train_command([*tiny_arguments, "stages.state=1", "chi.policy=fixed", f"run_dir={path}"])
    return path


@pytest.fixture(scope="module")
def line_of_sight(tmp_path_factory, run) -> Path:
    """An evaluation of that run on another world, in a folder of its own."""
    path = tmp_path_factory.mktemp("work") / "los"
    evaluate_command([f"ckpt={run}", f"out={path}", "scenario.rician=10", "drops=12"])
    return path


@pytest.fixture
def agent(tiny) -> D2RL:
    return D2RL(tiny())


def read(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


# ------------------------------------------------------------------ contents


def test_a_training_leaves_results_curves_cells_rates_and_configuration(run):
    page = read(run)
    shown = " ".join(image["alt"] for image in page.images)
    for part in ("Sum rate from", "Seconds of the sections", "Stages that began: action, reward, state", "Drop"):
        assert part in shown
    assert "Distribution of downlink" in shown
    assert "Distribution of uplink" in shown
    for policy in ("d2rl best of 16", "wmmse", "rzf", "random"):
        assert policy in page.text
    assert "scenario.downlink_users" in page.text
    assert "interference_free" not in page.text


def test_every_number_of_the_results_carries_its_label(run):
    """Where the screen is too narrow for columns, there is no head to read it from."""
    html = (run / "report.html").read_text(encoding="utf-8")
    table = re.search(r'<table class="policies">(.*?)</table>', html, re.DOTALL).group(1)
    policy, *heads = re.findall(r'<th scope="col">([^<]+)</th>', table)
    rows = [re.findall(r'<td data-label="([^"]+)">[^<]+</td>', row) for row in table.split("<tr")[2:]]
    assert policy == "policy"
    assert {"sum rate", "gap closed", "latency (ms)"} < set(heads)
    assert len(rows) == 9
    assert all(row == heads for row in rows)


def test_a_schedule_is_told(agent):
    agent.config = replace(agent.config, evaluation=replace(agent.config.evaluation, slots=2))
    made, report = evaluate(agent)
    text = " ".join(Page(report_page("slots", agent.config, made, report)).text.split())
    assert "Proportional fair over 2 slots (equal weights): geometric mean of the links" in text


def test_every_picture_is_within_the_page_and_told_in_words(run, line_of_sight):
    for folder in (run, line_of_sight):
        page = read(folder)
        assert len(page.images) >= 6
        for image in page.images:
            assert len(image["alt"]) > 30
            kind, _, content = image["src"].partition(",")
            assert kind == "data:image/svg+xml;base64"
            drawing = base64.b64decode(content).decode()
            assert re.findall(r'(?:href|src)="(?!#|data:)[^"]*"', drawing) == []


def test_nothing_on_the_page_comes_from_elsewhere(run, line_of_sight):
    for folder in (run, line_of_sight):
        html, page = (folder / "report.html").read_text(encoding="utf-8"), read(folder)
        assert page.references
        assert all(reference.startswith("data:") for reference in page.references)
        assert "script" not in page.tags
        assert "http:" not in html
        assert "https:" not in html
        assert "url(" not in html


def test_references_of_other_drops_are_not_drawn_into_the_learning_curve(run, line_of_sight):
    alts = [next(i["alt"] for i in read(folder).images if "Sum rate" in i["alt"]) for folder in (run, line_of_sight)]
    assert "wmmse" in alts[0]
    assert "wmmse" not in alts[1]


def test_a_policy_without_its_training_says_so(run, tmp_path):
    copy = tmp_path / "copied.ckpt"
    shutil.copy(run / "checkpoints/last.ckpt", copy)
    evaluate_command([f"ckpt={copy}", f"out={tmp_path}"])
    page = read(tmp_path)
    assert "no learning curve here" in page.text
    assert not any("Sum rate from" in image["alt"] for image in page.images)


def test_the_map_says_what_a_beam_can_tell(run, line_of_sight):
    assert "a beam has no direction" in " ".join(read(run).text.split())
    assert "front from back" in " ".join(read(line_of_sight).text.split())


def test_a_channel_bank_has_no_map(agent):
    made, report = evaluate(agent)
    made.state = replace(made.state, positions=None)
    page = Page(report_page("bank", agent.config, made, report))
    assert "does not tell where users are" in " ".join(page.text.split())
    assert not any("map of the users" in image["alt"] for image in page.images)


def test_names_from_outside_are_text(agent):
    made, report = evaluate(agent)
    config = replace(agent.config, run_dir="<script>alert(1)</script>")
    html = report_page("<b>name", config, made, report)
    assert "script" not in Page(html).tags
    assert "b" not in Page(html).tags


def test_a_page_that_cannot_be_made_is_one_warning(agent, tmp_path, caplog):
    made, report = evaluate(agent)
    (tmp_path / "report.html").mkdir()
    assert save_report_page(tmp_path, agent.config, made, report) is None
    (message,) = [record.getMessage() for record in caplog.records]
    assert "report.html could not be written" in message
    assert "\n" not in message
    assert save_report_page(tmp_path, agent.config, made, {"policies": {}}) is None


# ------------------------------------------------------------------ what is drawn


def cell(scenario: FullDuplexConfig) -> Cell:
    state = evaluation_states(scenario, 1, 0)
    downlink, uplink = state.positions
    rates = torch.ones(scenario.downlink_users + scenario.uplink_users)
    precoder = rzf(state.channels)[0]
    power = torch.ones(scenario.uplink_users)
    return Cell(state.channels, precoder, power, rates, rates, (downlink[0], uplink[0]), 100.0, True)


def test_powers_of_the_beams_add_up_to_what_users_receive():
    one = cell(FullDuplexConfig())
    linear = 10 ** (one.beam_powers() / 10)
    signal, disturbance = downlink_powers(one.channels, one.precoder[None], torch.zeros(1, 4))
    floor = 6 * 10 ** (FLOOR_DB / 10)  # quieter beams are shown as the floor
    torch.testing.assert_close(linear.diagonal(), signal[0], rtol=1e-4, atol=floor)
    torch.testing.assert_close(linear[:, :-1].sum(0), signal[0] + disturbance[0] - 1, rtol=1e-4, atol=floor)


def test_a_beam_matched_to_a_direction_is_strongest_there():
    angle = torch.tensor(1.1)
    one = cell(FullDuplexConfig())
    towards = steering(torch.stack([angle.cos(), angle.sin()])[None], 8)[0]
    matched = replace(one, precoder=(towards / math.sqrt(8)).unsqueeze(1))
    angles = torch.linspace(0, math.pi, 1801)
    pattern = matched.patterns(angles)[0]
    assert abs(float(angles[pattern.argmax()]) - 1.1) < 2e-3
    assert float(pattern.max()) == pytest.approx(1, abs=1e-5)


def test_outcomes_are_those_that_were_scored():
    made = Evaluation(FullDuplexProblem(FullDuplexConfig()), 5, 0)
    for name, outcome in made.outcomes.items():
        assert float(outcome.utility.sum(-1).mean()) == pytest.approx(made.policies[name]["sum_rate"], rel=1e-5)
    inside = [place.norm(dim=-1) for place in made.state.positions]
    assert all(bool(((distance >= 10) & (distance <= 100)).all()) for distance in inside)


# ------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for flag in ("headless", "no-sandbox", "disable-sync", *QUIET, "window-size=1280,900", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.mark.parametrize("screen", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_page_fits_the_screen_and_shows_every_picture(browser, run, line_of_sight, screen):
    width, height = screen
    metrics = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    for folder in (run, line_of_sight):
        browser.get((folder / "report.html").as_uri())
        browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert browser.execute_script("return window.innerWidth") == width
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        cut = "return [...document.querySelectorAll('.wide')].filter(one => one.scrollWidth > one.clientWidth).length"
        assert browser.execute_script(cut) == 0
        sizes = browser.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth, i.width])")
        assert len(sizes) >= 6
        assert all(complete and natural > 0 and shown > 250 for complete, natural, shown in sizes)
        assert browser.get_log("browser") == []
