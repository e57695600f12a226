"""Whether the numbers that ``stages.*=auto`` decides by predict what a stage brings.

    python benchmarks/when.py [stages=reward,state] [seeds=1] [seed=0] [only=NAMES] [out=DIR]

Every setting trains for some seconds twice: with the stage, and with an explorer that learns but whose stage never
begins. The number is measured where the stage begins; the gain is the difference of the scores on evaluation drops:
gap closed between random decisions and WMMSE, or 1 / (1 + mean delay in slots) for queues. Settings that DIR/when.csv
holds are not run again. Seeds from 100 on tune, with drops of their own; the others judge.
"""

from __future__ import annotations

import csv
import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from torch.utils.data import DataLoader

from d2rl.algorithm.agent import D2RL
from d2rl.algorithm.decisions import decision_rule
from d2rl.common.command_line import run
from d2rl.config.defaults import Config, option
from d2rl.config.load import load
from d2rl.evaluation.evaluate import make_evaluation, policy_of
from d2rl.problems import load_config
from d2rl.training.callbacks import ChiSchedule, RewardGuard, StagedIntegration
from d2rl.training.callbacks.stages import FORECASTS

NEVER = 10**6  # an epoch
TUNING = 100  # first seed of those that tune
SMALL = 0.02  # gain within which a stage neither pays nor harms

SITE = "conf=site trainer.epochs=6 stages.state=1"
LEARNED = "conf=site trainer.epochs=8 stages.state=2 ddpg.analytic=false"
SCARCE = "conf=scarce_csi trainer.epochs=5 stages.state=1"
PAPER = "conf=paper reward.case=raw trainer.epochs=6 stages.reward=null stages.state=2"
CELL = "conf=full_duplex stages.state=null trainer.epochs=5 stages.reward=1"
PLACE = "conf=paper stages.state=null trainer.epochs=6 stages.reward=2"
REPORTS = "conf=traffic_reports trainer.epochs=6 stages.reward=2"
QUEUES = f"{REPORTS} traffic.feedback=dense reward.rate=1e-2 reward.updates=1"
SETTINGS = {
    "state": {
        **{f"site, {n} states": f"{SITE} scenario.stored_states={n}" for n in (10, 20, 50, 100, 200, 1000, 0)},
        "site, 20 states, link graph": f"{SITE} scenario.stored_states=20 network.kind=link_graph",
        "site, endless, link graph": f"{SITE} scenario.stored_states=0 network.kind=link_graph",
        "site, 20 states, 8 + 8 antennas": f"{SITE} scenario.transmit_antennas=8 scenario.receive_antennas=8",
        "site, 50 states, 4 + 4 users": f"{SITE} scenario.stored_states=50 scenario.downlink_users=4 "
        "scenario.uplink_users=4",
        "site, 50 states, e = 0.1": f"{SITE} scenario.stored_states=50 scenario.csi_error=0.1",
        "one place, 20 states": f"{SITE} scenario.stored_states=20 scenario.fixed_drop=3",
        "one place, line of sight, 20 states": f"{SITE} scenario.stored_states=20 scenario.fixed_drop=3 "
        "scenario.rician=10",
        "one place, endless": f"{SITE} scenario.stored_states=0 scenario.fixed_drop=3",
        "site, learned critic, 20 states": f"{LEARNED} scenario.stored_states=20",
        "site, learned critic, endless": f"{LEARNED} scenario.stored_states=0",
        **{f"scarce CSI, {n} states": f"{SCARCE} scenario.stored_states={n}" for n in (20, 100, 0)},
        **{
            f"scarce CSI, mlp, {n} states": f"{SCARCE} network.kind=mlp scenario.stored_states={n}"
            for n in (20, 100, 0)
        },
        **{f"paper, {n} states": f"{PAPER} scenario.stored_states={n}" for n in (20, 100, 0)},
        "nlos, 20 states": f"{SCARCE} scenario.path_loss=nlos scenario.bs_power=30 scenario.stored_states=20",
        "imperfect CSI, 50 states": f"{SCARCE} scenario.csi_error=0.1 scenario.stored_states=50",
    },
    "reward": {
        "cell, designed": CELL,
        "cell, raw": f"{CELL} reward.case=raw_gdm",
        "cell, raw, no guard": f"{CELL} reward.case=raw_gdm reward.guard=-1 reward.every=1",
        "cell, designed, mlp": f"{CELL} network.kind=mlp",
        "cell, raw, mlp, numbers, no guard": f"{CELL} reward.case=raw_gdm network.kind=mlp network.critic=numbers "
        "reward.guard=-1",
        "cell, designed, 2 + 2 users": f"{CELL} scenario.downlink_users=2 scenario.uplink_users=2",
        "cell, raw, 4 + 4 antennas": f"{CELL} reward.case=raw_gdm scenario.transmit_antennas=4 "
        "scenario.receive_antennas=4 scenario.downlink_users=3 scenario.uplink_users=3",
        "cell, designed, nlos": f"{CELL} scenario.path_loss=nlos scenario.bs_power=30",
        "cell, designed, e = 0.1, guard 0.2": f"{CELL} scenario.csi_error=0.1 reward.guard=0.2 reward.every=1",
        "cell, raw, e = 0.3, no guard": f"{CELL} reward.case=raw_gdm scenario.csi_error=0.3 reward.guard=-1 "
        "reward.every=1",
        "paper, designed": PLACE,
        "paper, raw, no guard": f"{PLACE} reward.case=raw_gdm reward.guard=-1",
        "surface, designed": "conf=ris trainer.epochs=4 stages.reward=1 reward.generated=true reward.guard=0.2",
        "queues, dense": QUEUES,
        "queues, acknowledgements": f"{QUEUES} traffic.feedback=ack",
        "queues, scalar": f"{REPORTS} traffic.feedback=scalar",
        **{f"queues, report of {n}": f"{REPORTS} traffic.report_slots={n}" for n in (3, 10, 25, 50)},
        "queues, report of 10, light load": f"{REPORTS} traffic.load_low=0.3 traffic.load_high=0.7 traffic.load=0.6",
        "queues, report of 10, 3 + 2 users": f"{REPORTS} scenario.downlink_users=3 scenario.uplink_users=2",
        "queues, report of 10, raw": f"{REPORTS} reward.case=raw",
    },
}


@dataclass
class WhenConfig:
    """What the command takes."""

    stages: str = option("reward,state", "stages with commas")
    seeds: int = option(1, "runs of each setting", low=0)
    seed: int = option(0, "first seed", low=0)
    only: str | None = option(None, "part of the names of the settings to run; null: all")
    out: str = option("runs/when", "folder for when.csv")


class Probe(Callback):
    """Measures a stage's number at an epoch, before the stage begins."""

    def __init__(self, stage: str, epoch: int):
        self.stage, self.epoch, self.number = stage, epoch, float("nan")

    def on_train_epoch_start(self, trainer: L.Trainer, agent: D2RL) -> None:
        """Measure when due."""
        if trainer.current_epoch == self.epoch:
            self.number = float(FORECASTS[self.stage][0](agent))


def when_command(arguments: list[str]) -> None:
    """python benchmarks/when.py [stages=reward,state] [seeds=1] [seed=0] [only=NAMES] [out=DIR]"""
    asked = load(arguments, WhenConfig)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    path, console = Path(asked.out) / "when.csv", Console()
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = read(path)
    done = {(row["stage"], row["setting"], int(row["seed"])) for row in rows}
    for seed in range(asked.seed, asked.seed + asked.seeds):
        for stage in asked.stages.split(","):
            for name, overrides in SETTINGS[stage].items():
                if (stage, name, seed) not in done and (asked.only or "") in name:
                    rows.append({"stage": stage, "setting": name, "seed": seed, **compared(stage, overrides, seed)})
                    console.print(rows[-1], soft_wrap=True)
                    write(path, rows)
    for stage in asked.stages.split(","):
        console.print(summary(stage, rows), soft_wrap=True)


def compared(stage: str, overrides: str, seed: int) -> dict[str, float]:
    """Number, and what a training reaches without the stage and with it."""
    drops = [f"evaluation.seed={77 if seed >= TUNING else 0}", "evaluation.drops=128"]
    found = {}
    for begins in (False, True):
        config = load_config([*overrides.split(), *drops, "evaluation.references=false", f"seed={seed}"])
        epoch = getattr(config.stages, stage)
        if not begins:
            setattr(config.stages, stage, NEVER)
        start = time.process_time()
        agent, probe = D2RL(config), Probe(stage, epoch)
        train(config, agent, probe)
        kind = "always" if begins else "never"
        found |= {"number": round(probe.number, 4), f"{kind}_s": round(time.process_time() - start, 1)}
        found[kind] = round(score(config, agent), 4)
    return found | {"gain": round(found["always"] - found["never"], 4)}


def train(config: Config, agent: D2RL, probe: Probe) -> None:
    """Train with the callbacks that steer a run, and nothing else."""
    plan = config.trainer
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=plan.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[probe, StagedIntegration(config.stages), ChiSchedule(config.chi), RewardGuard(config.reward.guard)],
    )
    trainer.fit(agent, DataLoader(range(plan.updates_per_epoch // plan.updates_per_step), batch_size=None))


def score(config: Config, agent: D2RL) -> float:
    """Gap closed to the better WMMSE, converged or after 200 iterations; for queues 1 / (1 + mean delay)."""
    evaluation = make_evaluation(config, agent.problem, torch.device("cpu"))
    reached = evaluation.judge(policy_of(agent, decision_rule(config)))
    if "gap_closed" not in reached:
        return 1 / (1 + reached["mean_delay"])
    stopped = agent.problem.references().get("wmmse_200")  # better where the estimate has errors that can be fitted
    return reached["gap_closed"] / max(1.0, evaluation.judge(stopped)["gap_closed"] if stopped else 1.0)


def summary(stage: str, rows: list[dict]) -> str:
    """Right calls of ``auto``, and what it, always and never leave behind the better of the two."""
    lines = [f"{stage}: begins if the number is above 0"]
    for kind in ("tune", "judge"):
        chosen = [row for row in rows if row["stage"] == stage and (int(row["seed"]) >= TUNING) == (kind == "tune")]
        if not chosen:
            continue
        numbers = {
            key: np.array([float(row[key]) for row in chosen]) for key in ("number", "gain", "never_s", "always_s")
        }
        number, gain, names = numbers["number"], numbers["gain"], np.array([row["setting"] for row in chosen])
        begins, clear = number > 0, np.abs(gain) > SMALL
        right = begins == (gain > 0)
        lines.append(
            f"  {kind}: {len(set(names))} settings, {len(gain)} runs: right {right.mean():.2f}, of the {clear.sum()} "
            f"whose gain is beyond {SMALL:g} {right[clear].mean():.2f}; rank correlation of number and gain "
            f"{np.corrcoef(number.argsort().argsort(), gain.argsort().argsort())[0, 1]:.2f}; least regret with a "
            f"threshold of {best_thresholds(number, gain)}"
        )
        rules = {"auto": begins, "always": begins | True, "never": begins & False}
        for rule, begun in rules.items():
            regret = np.where(begun, np.maximum(-gain, 0), np.maximum(gain, 0))
            low, high = interval(regret, names)
            seconds = np.where(begun, numbers["always_s"], numbers["never_s"]).mean()
            lines.append(f"    regret of {rule}: {regret.mean():.4f} [{low:.4f}, {high:.4f}], {seconds:.1f} s a run")
    return "\n".join(lines)


def best_thresholds(number: np.ndarray, gain: np.ndarray) -> str:
    """The range of thresholds whose choices gain most."""
    edges = np.concatenate([[-np.inf], np.sort(number), [np.inf]])
    gained = np.array([gain[number > edge].sum() for edge in edges[:-1]])
    best = int(gained.argmax())
    return f"{edges[best]:.3f} to {edges[best + 1]:.3f}"


def interval(values: np.ndarray, names: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, over settings."""
    means = np.array([values[names == name].mean() for name in sorted(set(names))])
    low, high = np.quantile(np.random.default_rng(0).choice(means, (4000, len(means))).mean(1), [0.025, 0.975])
    return low, high


def read(path: Path) -> list[dict]:
    """Rows of earlier runs."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict]) -> None:
    """All rows."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    run(when_command, WhenConfig)
