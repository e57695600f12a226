"""The W&B workspace of this project as code: ``python -m d2rl.dashboards entity=NAME [project=d2rl]``."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from d2rl.common.errors import ConfigError, first_line
from d2rl.config.defaults import option
from d2rl.config.load import load, wandb_key
from d2rl.runs.csv_logger import STEP


@dataclass(frozen=True)
class Panel:
    """Lines over environment steps, or over ``x``.

    :param kind: ``line`` or ``stacked-area``
    """

    title: str
    metrics: tuple[str, ...]
    unit: str = ""
    x: str = STEP
    log: bool = False
    kind: str = "line"


@dataclass(frozen=True)
class Section:
    """Panels under one heading."""

    name: str
    panels: tuple[Panel, ...]
    open: bool = True


RATE = "bit/s/Hz"


def _metrics(group: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{group}/{name}" for name in names)


def _plausibility(metric: str, *kinds: str) -> Panel:
    title = f"Synthetic against real: {metric.replace('_', ' ')}"
    return Panel(title, tuple(f"senpnn/{kind}/{metric}" for kind in kinds))


SECTIONS = (
    Section(
        "Policy",
        (
            Panel("Sum rate", _metrics("eval", "sum_rate", "weighted_sum_rate"), RATE),
            Panel("Gap closed", _metrics("eval", "gap_closed")),
            Panel("Gap closed against training time in s", _metrics("eval", "gap_closed"), x="time/total"),
            Panel("Share of WMMSE", _metrics("eval", "wmmse_ratio")),
            Panel("Directions", _metrics("eval", "downlink_rate", "uplink_rate"), RATE),
            Panel("Worst twentieth of drops", _metrics("eval", "outage_sum_rate"), RATE),
            Panel("Worst twentieth of links", _metrics("eval", "rate_p5"), RATE),
            Panel("Jain's index", _metrics("eval", "jain")),
        ),
    ),
    Section(
        "Traffic, where links have queues",
        (
            Panel("Return", _metrics("eval", "return"), "bit/s/Hz-slots"),
            Panel("Mean delay", _metrics("eval", "mean_delay"), "slots", log=True),
            Panel("95 % delay", _metrics("eval", "delay_p95"), "slots"),
            Panel("Share of bits dropped", _metrics("eval", "dropped", "dropped_late", "dropped_full")),
            Panel("Throughput of a cell", _metrics("eval", "throughput"), RATE),
            Panel("Energy efficiency", _metrics("eval", "energy_efficiency"), "bit/J"),
            Panel("Slots below the minimum rate", _metrics("eval", "short")),
        ),
        open=False,
    ),
    Section(
        "Stages and alerts",
        (
            Panel("Stages", _metrics("charts", "stage_action", "stage_reward", "stage_state")),
            Panel("What auto decides stages by", _metrics("charts", "forecast_reward", "forecast_state")),
            Panel("chi", _metrics("charts", "chi")),
            Panel("Exploration noise", _metrics("charts", "exploration_noise")),
            Panel(
                "Alerts",
                _metrics(
                    "charts",
                    *("alert_early_divergence", "alert_reward_fallback"),
                    *("alert_skipped_steps", "alert_refused_transitions"),
                ),
            ),
        ),
    ),
    Section(
        "Learner",
        (
            Panel("Critic", _metrics("losses", "critic"), log=True),
            Panel("Deterministic actor", _metrics("losses", "actor")),
            Panel("Saturated actions", _metrics("charts", "saturated_actions")),
        ),
    ),
    Section(
        "AENPNN, action explorer",
        (
            Panel("Minus the value of its actions", _metrics("losses", "aenpnn_chain")),
            Panel("Imitation of good candidates", _metrics("losses", "aenpnn_weighted")),
            Panel("Time", _metrics("time", "aenpnn"), "s"),
        ),
    ),
    Section(
        "RENPNN, reward explorer",
        (
            Panel("Loss", _metrics("losses", "renpnn"), log=True),
            Panel(
                "Rank correlation",
                _metrics("renpnn", "rank_correlation", "smoothed_rank_correlation"),
            ),
            Panel("Goodhart gap", _metrics("renpnn", "goodhart_gap"), RATE),
            Panel("Time", _metrics("time", "renpnn"), "s"),
        ),
    ),
    Section(
        "SENPNN, state explorer",
        (
            Panel("Loss", ("losses/senpnn", "senpnn/held_out_loss", "senpnn/trained_loss")),
            Panel("Plausible share", _metrics("senpnn", "plausible_share")),
            _plausibility("magnitude", "downlink", "uplink", "cross", "self_interference"),
            _plausibility("gain", "downlink", "uplink", "cross", "self_interference"),
            _plausibility("covariance", "downlink", "uplink", "self_interference"),
            _plausibility("mmd", "downlink", "uplink", "self_interference"),
            _plausibility("antenna_correlation", "downlink", "uplink"),
            Panel("Synthetic against real: rates", _metrics("senpnn", "rate/rzf", "rate/wmmse")),
            Panel("Time", _metrics("time", "senpnn"), "s"),
        ),
        open=False,
    ),
    Section(
        "Cost",
        (
            Panel(
                "Sections",
                _metrics("time", "environment", "actor", "aenpnn", "critic", "renpnn", "senpnn", "replay", "update"),
                "s",
                kind="stacked-area",
            ),
            Panel("Epoch", _metrics("time", "epoch"), "s"),
            Panel("Total against updates", _metrics("time", "total"), "s", x="charts/updates"),
        ),
    ),
)
METRICS = frozenset(name for part in SECTIONS for panel in part.panels for name in (*panel.metrics, panel.x)) - {STEP}


@dataclass
class DashboardsConfig:
    """Where the workspace is saved."""

    entity: str | None = option(None, "W&B user or team; null: only show the layout")
    project: str = option("d2rl", "W&B project")
    name: str = option("D2RL", "of the workspace")


def workspace(entity: str, project: str, name: str = "D2RL") -> Any:
    """The layout as a ``wandb_workspaces`` workspace, for which no server is needed; ``.save()`` sends it.

    :raises ConfigError: the extra ``dashboards`` is not installed
    """
    try:
        workspaces = importlib.import_module("wandb_workspaces.workspaces")
        reports = importlib.import_module("wandb_workspaces.reports.v2")
    except ImportError as error:
        raise ConfigError(
            f"the workspace needs {error.name}, which is not installed: pip install 'd2rl[dashboards]'."
        ) from None
    sections = [
        workspaces.Section(
            name=part.name,
            is_open=part.open,
            panels=[
                reports.LinePlot(
                    title=panel.title,
                    x=panel.x,
                    y=list(panel.metrics),
                    title_y=panel.unit or None,
                    log_y=panel.log or None,
                    plot_type=panel.kind,
                )
                for panel in part.panels
            ],
        )
        for part in SECTIONS
    ]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        settings=workspaces.WorkspaceSettings(x_axis=STEP),
    )


def dashboards_command(arguments: list[str]) -> None:
    """python -m d2rl.dashboards [entity=NAME] [project=d2rl] [name=D2RL]

    Saves the workspace of docs/dashboards.md in a W&B project; without entity it only shows the layout.
    Needs the extra: d2rl[dashboards].
    """
    config, console = load(arguments, DashboardsConfig), Console()
    if config.entity is None:
        console.print(layout_table())
        console.print("to save it in W&B: python -m d2rl.dashboards entity=NAME", markup=False, soft_wrap=True)
        return
    made = workspace(config.entity, config.project, config.name)
    if not wandb_key():
        raise ConfigError("entity is given, but there is no W&B key: run `wandb login` or set WANDB_API_KEY.")
    try:
        made.save()
    except Exception as error:  # of the library, its HTTP client or the server
        where = f"{config.entity}/{config.project}"
        raise ConfigError(f"W&B has not taken the workspace for {where}: {first_line(error)}") from None
    console.print(f"saved: {made.url}", markup=False, soft_wrap=True)


def layout_table() -> Table:
    """Sections, panels and their metrics."""
    table = Table("section", "panel", "metrics")
    for part in SECTIONS:
        for index, panel in enumerate(part.panels):
            table.add_row(part.name if index == 0 else "", panel.title, ", ".join(panel.metrics))
    return table
