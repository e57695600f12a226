"""report.html: a run or an evaluation on one page that needs nothing else, not even a network."""

from __future__ import annotations

import base64
import io
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch
from matplotlib.figure import Figure

from d2rl.common.errors import counted
from d2rl.common.files import write_text
from d2rl.config.defaults import Config
from d2rl.config.load import to_yaml
from d2rl.config.schema import leaves
from d2rl.evaluation.episodes import EpisodeEvaluation
from d2rl.evaluation.evaluate import AGENT, KEPT, Evaluation, Outcome
from d2rl.problems import load_config
from d2rl.report.figures import (
    STAGES,
    WIDTH,
    Cell,
    cell_figure,
    learning_curve_figure,
    rates_figure,
    report_style,
    sections_figure,
    stages_figure,
)
from d2rl.report.learning_curve import read_metrics
from d2rl.report.terminal import schedule_line
from d2rl.runs.run_directory import RunDirectory

PAGE = "report.html"
COMPARED = (AGENT, "wmmse", "rzf")  # policies whose link rates are drawn

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A figure within the page.

    :param source: data URI
    :param alt: what it shows, in words
    :param caption: how to read it
    """

    source: str
    alt: str
    caption: str


def save_report_page(
    folder: Path, config: Any, evaluation: Any, report: dict[str, Any], run: RunDirectory | None = None
) -> Path | None:
    """Write report.html; a page that cannot be made costs one warning, never the run.

    :param folder: where to write it
    :param config: what was asked for
    :param evaluation: with the outcomes of the agent and of the references
    :param report: content of eval.json
    :param run: the training, if its directory is at hand
    :returns: the file, None if there is none
    """
    if isinstance(config, Config):
        make: Any = report_page
    elif isinstance(evaluation, EpisodeEvaluation) and evaluation.outcomes:
        make = episodes_page
    else:
        return None
    path = folder / PAGE
    try:
        write_text(path, make(folder.resolve().name, config, evaluation, report, run))
    except Exception as error:
        logger.warning("%s could not be written: %s", path, " ".join(str(error).split()) or type(error).__name__)
        return None
    return path


def report_page(
    title: str, config: Config, evaluation: Evaluation, report: dict[str, Any], run: RunDirectory | None = None
) -> str:
    """The HTML of :func:`save_report_page`."""
    with report_style():
        content = {
            "agent": report["policies"][AGENT],
            "policies": sorted(report["policies"].items(), key=lambda item: -item[1][report["metric"]]),
            "weighted": bool((evaluation.state.weights != 1).any()),
            "drops": report["drops"],
            "minimum": config.scenario.minimum_rate,
            "metric": report["metric"],
            "bound": report["interference_free_bound"],
            "schedule": schedule_line(report),
            "training": _training(config, evaluation, run) if run and run.metrics.is_file() else [],
            "cells": _cells(evaluation),
            "channels": _kind_of_channels(evaluation),
            "distributions": _distributions(evaluation),
        }
    return _page("page.html.j2", title, config, run, content)


def episodes_page(
    title: str, config: Any, evaluation: EpisodeEvaluation, report: dict[str, Any], run: RunDirectory | None = None
) -> str:
    """The HTML of :func:`save_report_page` where policies are judged over episodes."""
    problem: Any = evaluation.problem
    policies, metric = report["policies"], report["metric"]
    keys = [key for key in report["units"] if any(key in metrics for metrics in policies.values())]
    with report_style():
        episodes = []
        for draw, alt, caption in problem.pictures(evaluation.outcomes):
            figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
            draw(figure.subplots())
            episodes.append(picture(figure, alt, caption))
        training = _returns(run, metric, report["units"][metric]) if run and run.metrics.is_file() else []
    content = {
        "agent": policies[AGENT],
        "policies": list(policies.items()),
        "drops": report["drops"],
        "shown": report["shown"],
        "units": report["units"],
        "columns": keys,
        "episodes": episodes,
        "training": training,
    }
    return _page("episodes.html.j2", title, config, run, content)


def _returns(run: RunDirectory, metric: str, unit: str) -> list[Picture]:
    """Returns of evaluation episodes over training time, and what it cost."""
    curve = read_metrics(run.metrics, "time/total", f"eval/{metric}")
    if not curve:
        return _costs(run)
    figure = learning_curve_figure(run.metrics, {}, metric, unit)
    alt = f"Return from {curve[0][1]:.4g} to {curve[-1][1]:.4g} within {curve[-1][0]:.0f} s of training."
    return [picture(figure, alt, "Return of evaluation episodes over training time."), *_costs(run)]


def _page(template: str, title: str, config: Any, run: RunDirectory | None, content: dict[str, Any]) -> str:
    defaults = leaves(type(config))
    content |= {
        "title": title,
        "timing": _timing(run),
        "changed": [(k, v.value, defaults[k].value) for k, v in leaves(config).items() if v.value != defaults[k].value],
        "yaml": to_yaml(config),
    }
    return rendered(template, content)


def rendered(template: str, content: dict[str, Any]) -> str:
    """A template of this folder with every value escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(content)


def _timing(run: RunDirectory | None) -> dict[str, Any] | None:
    return json.loads(run.timing.read_text(encoding="utf-8")) if run and run.timing.is_file() else None


def _training(config: Config, evaluation: Evaluation, run: RunDirectory) -> list[Picture]:
    """Learning curve, and what it cost."""
    curve = read_metrics(run.metrics, "time/total", "eval/sum_rate")
    pictures = []
    if curve:
        same = _evaluated_in_training(config, run)
        references = {name: evaluation.policies[name] for name in evaluation.references if same}
        levels = ", ".join(f"{name} {p['sum_rate']:.1f}" for name, p in references.items())
        alt = f"Sum rate from {curve[0][1]:.1f} to {curve[-1][1]:.1f} bit/s/Hz within {curve[-1][0]:.0f} s of training."
        caption = "Learning curve on the frozen drops; grey lines are the references, dotted lines begin a stage."
        if not same:
            caption = "Learning curve on the drops of the training; this evaluation used others, so no references here."
        alt += f" References: {levels}." if levels else ""
        pictures.append(picture(learning_curve_figure(run.metrics, references), alt, caption))
    return pictures + _costs(run)


def _costs(run: RunDirectory) -> list[Picture]:
    """Section times, stages and chi."""
    times = [time for (time,) in read_metrics(run.metrics, "time/total")]
    pictures = []
    if timing := _timing(run):
        seconds = timing["seconds"]
        parts = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
        caption = (
            f"What {counted(timing['updates'], 'update')} cost on {timing['device']}; evaluation is not part of it."
        )
        pictures.append(picture(sections_figure(seconds), f"Seconds of the sections of training: {parts}.", caption))
    if times:
        chi = [value for (value,) in read_metrics(run.metrics, "charts/chi")]
        on = [
            name for name in STAGES if any(value > 0 for (value,) in read_metrics(run.metrics, f"charts/stage_{name}"))
        ]
        alt = f"Stages that began: {', '.join(on) or 'none'}. Chi ends at {chi[-1] if chi else 0:.2f}."
        caption = "Stages of exploration over training time, and the share of states that SENPNN replaced."
        pictures.append(picture(stages_figure(run.metrics, times[-1]), alt, caption))
    return pictures


def _evaluated_in_training(config: Config, run: RunDirectory) -> bool:
    """Whether training looked at the very drops of this evaluation."""
    if not run.config.is_file():
        return False
    trained = load_config([f"conf={run.config}"])
    drops, before = config.evaluation, trained.evaluation
    return (
        config.scenario == trained.scenario
        and (drops.drops, drops.seed) == (before.drops, before.seed)
        and drops.weights == before.weights
    )


def _cells(evaluation: Evaluation) -> list[Picture]:
    """The drops in which the policy loses most to WMMSE, does middling, and gains most."""
    agent, wmmse = evaluation.outcomes[AGENT], evaluation.outcomes["wmmse"]
    difference = _objective(evaluation, agent) - _objective(evaluation, wmmse)
    order = difference.argsort().tolist()
    names = {order[-1]: "largest gain", order[len(order) // 2]: "middle", order[0]: "largest loss"}
    pictures = []
    for drop, name in reversed(names.items()):
        cell = _cell(evaluation, agent, wmmse, drop)
        mine, theirs = float(cell.rates.sum()), float(cell.reference.sum())
        on = ", ".join(f"U{k} {p:.0%}" for k, p in enumerate(cell.uplink_power.tolist(), start=1)) or "none"
        alt = (
            f"Drop {drop}: {'map of the users, ' if cell.positions else ''}powers of the beams at the users, rates. "
            f"d2rl {mine:.1f}, WMMSE {theirs:.1f} bit/s/Hz. Uplink power: {on}."
        )
        caption = f"Drop {drop}, {name} against WMMSE: {mine:.1f} to {theirs:.1f} bit/s/Hz."
        pictures.append(picture(cell_figure(cell), alt, caption))
    return pictures


def _objective(evaluation: Evaluation, outcome: Outcome) -> Any:
    return (outcome.utility * evaluation.state.weights.cpu()).sum(-1)[:KEPT]


def _cell(evaluation: Evaluation, agent: Outcome, wmmse: Outcome, drop: int) -> Cell:
    scenario, places = evaluation.problem.config, evaluation.state.positions
    channels = evaluation.state.channels[drop : drop + 1]
    return Cell(
        channels.to(torch.device("cpu")),
        agent.decision[0][drop],
        agent.decision[1][drop],
        agent.utility[drop],
        wmmse.utility[drop],
        None if places is None else (places.downlink[drop].cpu(), places.uplink[drop].cpu()),
        scenario.cell_radius,
        scenario.rician is not None,
    )


def _kind_of_channels(evaluation: Evaluation) -> str:
    """What the map of a cell can tell: ``bank``, ``los`` or ``rayleigh``."""
    if evaluation.state.positions is None:
        return "bank"
    return "rayleigh" if evaluation.problem.config.rician is None else "los"


def _distributions(evaluation: Evaluation) -> list[Picture]:
    pictures, k_d = [], evaluation.problem.config.downlink_users
    for direction, links in (("downlink", slice(None, k_d)), ("uplink", slice(k_d, None))):
        if not evaluation.state.weights[:, links].shape[1]:
            continue
        rates = {name: evaluation.outcomes[name].utility[:, links].flatten() for name in COMPARED}
        medians = ", ".join(f"{name} {float(values.median()):.2f}" for name, values in rates.items())
        alt = f"Distribution of {direction} link rates. Medians in bit/s/Hz: {medians}."
        pictures.append(picture(rates_figure(rates, direction), alt, f"Rates of {direction} links over all drops."))
    return pictures


def picture(figure: Figure, alt: str, caption: str) -> Picture:
    """A figure as a part of the page."""
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    source = base64.b64encode(content.getvalue()).decode("ascii")
    return Picture(f"data:image/svg+xml;base64,{source}", alt, caption)
