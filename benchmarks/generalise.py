"""One policy in other cells, without retraining: users, antennas, radius, self-interference, NLOS, measured channels.

    python benchmarks/generalise.py ckpt=PATH [out=DIR] [drops=128] [bank=PATH,...] [only=users,antennas,...]

Each row changes one thing of the scenario that the policy was trained in; the group ``box`` changes the users of both
directions and the antennas together. WMMSE (one start, converged), RZF at full power and the policy decide on the
same drops.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from d2rl.algorithm.decisions import DecisionRule
from d2rl.algorithm.policy import Policy
from d2rl.common.command_line import run
from d2rl.common.errors import ConfigError
from d2rl.config.defaults import FullDuplexConfig, option
from d2rl.config.load import load
from d2rl.config.schema import either
from d2rl.deploy.pretrained import load_policy
from d2rl.evaluation.evaluate import BEST_OF, policy_of, ratio, trained_spread
from d2rl.problems.full_duplex import references
from d2rl.problems.full_duplex.cell_sizes import cells_of
from d2rl.problems.full_duplex.scenario_bank import cell_of
from d2rl.problems.full_duplex.simulator import evaluation_states
from d2rl.report.learning_curve import COLOURS
from d2rl.wireless import link_rates
from d2rl.wireless.bank_file import load_bank

USERS, ANTENNAS = (2, 4, 6, 8, 10, 12), (4, 8, 16, 32)
RADII, SELF_INTERFERENCE = (50.0, 100.0, 200.0, 400.0), (-70.0, -80.0, -90.0, -100.0, -110.0, -130.0)
BOX_USERS, BOX_ANTENNAS = (2, 6, 12), (4, 8, 32)
NLOS_POWER = 30.0  # dBm, P_BS of the NLOS scenario
GROUPS = {
    "users": "users in each direction",
    "antennas": "antennas N_t = N_r",
    "radius": "cell radius (m)",
    "interference": "residual self-interference (dB)",
    "propagation": "propagation",
    "box": "users of both directions and antennas",
}
COLUMNS = 3  # of the figure
AGENT, BEST, WMMSE, RZF, RANDOM = "D2RL", f"D2RL, best of {BEST_OF}", "WMMSE", "RZF", "random"


@dataclass
class GeneraliseConfig:
    """What the command takes."""

    ckpt: str | None = option(None, "checkpoint, run directory, policy folder or pretrained")
    out: str = option("runs/generalise", "where it writes")
    drops: int = option(128, "states in each cell", low=2)
    seed: int = option(0, "of the drops", low=0)
    bank: str | None = option(None, "channel banks, with commas; their states kept for evaluation are used")
    only: str | None = option(None, f"groups with commas, of {', '.join(GROUPS)}; null: all")


@dataclass(frozen=True)
class Row:
    """One cell.

    :param group: of what is changed
    :param value: on the axis of that group
    :param trained: whether training has visited this cell
    """

    group: str
    value: float | str
    scenario: FullDuplexConfig
    trained: bool


def generalise_command(arguments: list[str]) -> None:
    """python benchmarks/generalise.py ckpt=PATH [out=DIR] [drops=128] [seed=0] [bank=PATH,...] [only=GROUP,...]

    Evaluates one checkpoint in other cells without retraining; writes generalise.csv, generalise.md, generalise.png.
    """
    asked, console = load(arguments, GeneraliseConfig), Console()
    if asked.ckpt is None:
        raise ConfigError("ckpt=PATH is missing, a checkpoint or a run directory.")
    trained, path = load_policy(asked.ckpt)
    config, weights = trained.config, trained.state_dict()
    torch.set_num_threads(config.trainer.threads or torch.get_num_threads())
    rows = list(cells(config.scenario, _chosen(asked.only), asked.bank.split(",") if asked.bank else []))
    results = []
    for row in track(rows, "cells", console=console, transient=True):
        policy = Policy.of(replace(config, scenario=row.scenario), weights, config, str(path))
        results.append((row, score(row.scenario, _policies(policy), asked.drops, asked.seed)))
    out = Path(asked.out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    _write_csv(out / "generalise.csv", results)
    table = _table(results)
    (out / "generalise.md").write_text(table, encoding="utf-8")
    _figure(out / "generalise.png", results)
    console.print(table, markup=False, highlight=False, soft_wrap=True)
    console.print(f"written: {out}", markup=False)


def cells(trained: FullDuplexConfig, groups: list[str], banks: list[str]) -> Iterator[Row]:
    """Every cell, group by group; a policy trained on a bank is put into drawn cells."""
    visited = cells_of(trained)

    def changed(group: str, value: float | str, **scenario: float | int | str) -> Row:
        other = replace(trained, **{"channel_bank": None, **scenario})
        return Row(group, value, other, replace(other, loads=None) in visited)

    for count in USERS if "users" in groups else ():
        yield changed("users", count, downlink_users=count, uplink_users=count)
    for count in ANTENNAS if "antennas" in groups else ():
        yield changed("antennas", count, transmit_antennas=count, receive_antennas=count)
    for radius in RADII if "radius" in groups else ():
        yield changed("radius", radius, cell_radius=radius)
    for level in SELF_INTERFERENCE if "interference" in groups else ():
        yield changed("interference", level, self_interference=level)
    if "propagation" in groups:
        yield changed("propagation", "as trained", channel_bank=trained.channel_bank)
        yield changed("propagation", f"NLOS, {NLOS_POWER:g} dBm", path_loss="nlos", bs_power=NLOS_POWER)
    for antennas, down, up in product(BOX_ANTENNAS, BOX_USERS, BOX_USERS) if "box" in groups else ():
        users = {"downlink_users": down, "uplink_users": up}
        name = f"{down} + {up} users, {antennas} antennas"
        yield changed("box", name, **users, transmit_antennas=antennas, receive_antennas=antennas)
    for bank in banks:
        yield changed(
            "propagation", Path(bank).stem, channel_bank=bank, **cell_of(load_bank(Path(bank).expanduser()).channels)
        )


@torch.no_grad()
def score(
    scenario: FullDuplexConfig, policies: dict[str, references.Policy], drops: int, seed: int
) -> dict[str, float]:
    """Mean sum rate of each policy, bit/s/Hz; ``drops``, and half the 95 % interval of D2RL's share of WMMSE."""
    state = evaluation_states(scenario, drops, seed)
    rates = {name: link_rates(state.channels, *policy(state)).sum(-1).double() for name, policy in policies.items()}
    share = rates[AGENT].mean() / rates[WMMSE].mean()
    residual = (rates[AGENT] - share * rates[WMMSE]) / rates[WMMSE].mean()  # of a ratio of means, paired by drop
    half = 1.96 * residual.std() / len(residual) ** 0.5
    return {**{name: float(rate.mean()) for name, rate in rates.items()}, "half": float(half), "drops": len(residual)}


def _policies(policy: Policy) -> dict[str, references.Policy]:
    known = references.reference_policies()
    return {
        AGENT: policy_of(policy, DecisionRule()),
        BEST: policy_of(policy, DecisionRule(best_of=BEST_OF, priority_spread=trained_spread(policy))),
        WMMSE: known["wmmse"],
        RZF: known["rzf"],
        RANDOM: known["random"],
    }


def _chosen(only: str | None) -> list[str]:
    groups = only.split(",") if only else list(GROUPS)
    for group in groups:
        if group not in GROUPS:
            raise ConfigError(f"only={only}: {group} is no group; they are {either(GROUPS)}.")
    return groups


def _shares(result: dict[str, float]) -> dict[str, float]:
    """Of WMMSE, and the part of the way from random to WMMSE."""
    shares = {name: ratio(result[name], result[WMMSE]) for name in (AGENT, BEST, RZF)}
    return {**shares, "gap closed": ratio(result[AGENT] - result[RANDOM], result[WMMSE] - result[RANDOM])}


def _write_csv(path: Path, results: list[tuple[Row, dict[str, float]]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        scenario = list(asdict(results[0][0].scenario))
        names = [f"sum_rate/{name}" for name in (AGENT, BEST, WMMSE, RZF, RANDOM)]
        writer = csv.writer(file)
        writer.writerow(
            ["group", "value", "trained", "drops", *names, "wmmse_ratio", "half_interval", "gap_closed", *scenario]
        )
        for row, result in results:
            rates, share = [result[name.partition("/")[2]] for name in names], _shares(result)
            cell = [row.group, row.value, int(row.trained), result["drops"]]
            worth = [share[AGENT], result["half"], share["gap closed"]]
            writer.writerow([*cell, *rates, *worth, *asdict(row.scenario).values()])


def _table(results: list[tuple[Row, dict[str, float]]]) -> str:
    """Markdown; cells that training has visited are set in bold."""
    lines = [
        f"| cell | WMMSE (bit/s/Hz) | {AGENT} of WMMSE | {BEST} | {RZF} | gap closed |",
        "|---|---|---|---|---|---|",
    ]
    for row, result in results:
        shares = _shares(result)
        name = row.value if isinstance(row.value, str) else f"{GROUPS[row.group]}: {row.value:g}"
        name = f"**{name}**" if row.trained else name
        lines.append(
            f"| {name} | {result[WMMSE]:.1f} | {shares[AGENT]:.3f} ± {result['half']:.3f} | {shares[BEST]:.3f} | "
            f"{shares[RZF]:.3f} | {shares['gap closed']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def _figure(path: Path, results: list[tuple[Row, dict[str, float]]]) -> None:
    """Share of WMMSE over what is changed, a panel for each group that has one axis."""
    groups = [group for group in GROUPS if group != "box" and any(row.group == group for row, _ in results)]
    if not groups:
        return
    columns = min(COLUMNS, len(groups) + 1)  # the legend has a place of its own
    rows = -(-(len(groups) + 1) // columns)
    figure = Figure(figsize=(3 * columns, 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    panels = list(grid.flat)
    styles: dict[str, Callable[..., object]] = {AGENT: "o-", BEST: "^-", RZF: "s-"}
    for panel, group in zip(panels, groups, strict=False):
        mine = [(row, _shares(result)) for row, result in results if row.group == group]
        named = group == "propagation"
        places = list(range(len(mine)))
        panel.axhline(1, color="0.55", linewidth=0.8)
        for (name, style), colour in zip(styles.items(), COLOURS, strict=False):
            line = style[0] if named else style
            panel.plot(places, [shares[name] for _, shares in mine], line, color=colour, markersize=4, label=name)
        for place, (row, _) in enumerate(mine):
            if row.trained and not named:
                panel.axvline(place, color="0.8", linewidth=5, zorder=0)
        labels = [str(row.value).replace(", ", ",\n") if named else f"{row.value:g}" for row, _ in mine]
        panel.set_xticks(places, labels, fontsize=8)
        panel.set_xlim(-0.5, len(mine) - 0.5)
        panel.set_xlabel(GROUPS[group])
        panel.spines[["top", "right"]].set_visible(False)
    for row in grid:
        row[0].set_ylabel("share of WMMSE")
    handles, names = panels[0].get_legend_handles_labels()
    panels[len(groups)].legend(handles, names, title="sum rate of", frameon=False, loc="center")
    for panel in panels[len(groups) :]:
        panel.set_axis_off()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    run(generalise_command, GeneraliseConfig)
