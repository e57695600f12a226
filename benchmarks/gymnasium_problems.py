"""DDPG, action and reward exploration on Gymnasium's classic control, beside DDPG and SAC of Stable-Baselines3.

    OMP_NUM_THREADS=1 python benchmarks/gymnasium_problems.py [seeds=5] [out=docs/results/gymnasium]

Every run appends its evaluations to returns.csv, and runs that are there are not repeated; then figure and table are
made of all of them. Needs the extra ``peers``.
"""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from d2rl.benchmark.estimates import estimate
from d2rl.evaluation.episodes import EpisodeEvaluation
from d2rl.problems import load_config
from d2rl.problems.gymnasium import Episodes, GymnasiumConfig, GymnasiumProblem
from d2rl.report.learning_curve import COLOURS, read_metrics
from d2rl.runs.run_directory import RunDirectory
from d2rl.training.train import train

COLUMNS = ("environment", "variant", "seed", "steps", "return", "cpu_seconds")
Point = tuple[int, float, float]  # environment steps, mean return of the evaluation, CPU seconds of training


@dataclass(frozen=True)
class Task:
    """An environment, and what its goal and its peers' recipes are.

    :param goal: mean return that counts as reached
    :param steps: of training
    :param every: steps between two evaluations
    :param episodes: of each
    :param ours: overrides of conf/gymnasium.yaml
    :param ddpg, sac: of RL Baselines3 Zoo for this environment; ``noise`` is (kind, deviation)
    :param correlation: of our noise from step to step, in variants of their own; 0: there are none
    """

    goal: float
    steps: int
    every: int
    episodes: int
    ours: tuple[str, ...]
    ddpg: dict[str, Any]
    sac: dict[str, Any]
    correlation: float = 0.0

    @property
    def variants(self) -> dict[str, tuple[str, ...]]:
        """Ours, by name: overrides."""
        if not self.correlation:
            return OURS
        noise = f"ddpg.noise_correlation={self.correlation}"
        return OURS | {f"{name}, correlated noise": (*OURS[name], noise) for name in ("DDPG", "DDPG + A")}


TASKS = {
    "Pendulum-v1": Task(
        goal=-200,
        steps=6000,
        every=500,
        episodes=10,
        ours=(),
        ddpg={
            "gamma": 0.98,
            "buffer_size": 200_000,
            "learning_starts": 1000,  # the zoo's 10,000 are more than all steps here
            "noise": ("normal", 0.1),
            "gradient_steps": -1,
            "train_freq": (1, "episode"),
            "learning_rate": 1e-3,
            "policy_kwargs": {"net_arch": [400, 300]},
        },
        sac={"learning_rate": 1e-3},
    ),
    "MountainCarContinuous-v0": Task(
        goal=90,
        steps=12_000,
        every=1000,
        episodes=5,
        ours=("ddpg.noise=0.6", "ddpg.noise_end=0.6"),
        ddpg={"noise": ("ou", 0.5)},
        sac={
            "learning_rate": 3e-4,
            "buffer_size": 50_000,
            "batch_size": 512,
            "ent_coef": 0.1,
            "train_freq": 32,
            "gradient_steps": 32,
            "gamma": 0.9999,
            "tau": 0.01,
            "learning_starts": 0,
            "use_sde": True,
            "policy_kwargs": {"log_std_init": -3.67, "net_arch": [64, 64]},
        },
        correlation=0.9,
    ),
}
OURS: dict[str, tuple[str, ...]] = {
    "DDPG": (),
    "DDPG + A": ("stages.action=0",),
    "DDPG + A + R": ("stages.action=0", "stages.reward=0", "reward.generated=true"),
}
PEERS = {"SB3 DDPG": "ddpg", "SB3 SAC": "sac"}


def run_ours(environment: str, task: Task, overrides: Iterable[str], seed: int) -> list[Point]:
    """Evaluations of one training of d2rl."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            *("conf=gymnasium", f"gymnasium.id={environment}", f"seed={seed}", f"run_dir={folder}/run"),
            *("trainer.epochs=1", f"trainer.updates_per_epoch={task.steps}", "trainer.accelerator=cpu"),
            *("trainer.progress=false", "logger.mode=disabled", f"evaluation.drops={task.episodes}"),
        ]
        config = load_config([*arguments, *task.ours, *overrides])
        config = replace(
            config, evaluation=replace(config.evaluation, every=task.every // config.trainer.updates_per_step)
        )
        run = RunDirectory.create(config, "gymnasium")
        train(config, run)
        rows = read_metrics(run.metrics, "environment_steps", "eval/return", "time/total")
    return [(int(steps), value, seconds) for steps, value, seconds in rows]


def run_peer(environment: str, task: Task, algorithm: str, seed: int) -> list[Point]:
    """Evaluations of one training of Stable-Baselines3, on the same episodes as ours."""
    from stable_baselines3 import DDPG, SAC
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

    options = dict(getattr(task, algorithm))
    problem = GymnasiumProblem(GymnasiumConfig(environment))
    if "noise" in options:
        kind, deviation = options.pop("noise")
        size = problem.layout.size
        noise = NormalActionNoise if kind == "normal" else OrnsteinUhlenbeckActionNoise
        options["action_noise"] = noise(np.zeros(size), np.full(size, deviation))
    model = {"ddpg": DDPG, "sac": SAC}[algorithm]("MlpPolicy", environment, seed=seed, device="cpu", **options)
    evaluation = EpisodeEvaluation(problem, task.episodes, seed=0)
    points: list[Point] = []

    class Evaluate(BaseCallback):
        """Notes the policy's return and the seconds spent, evaluation left out."""

        def _on_training_start(self) -> None:
            self.spent, self.mark = 0.0, time.process_time()

        def _on_step(self) -> bool:
            if self.num_timesteps % task.every == 0:
                self.spent += time.process_time() - self.mark
                points.append((self.num_timesteps, evaluation.judge(policy_of(model, problem))["return"], self.spent))
                self.mark = time.process_time()
            return True

    model.learn(task.steps, Evaluate(), log_interval=10**9)
    return points


def policy_of(model: Any, problem: GymnasiumProblem) -> Callable[[Episodes], torch.Tensor]:
    """A peer's decisions without exploration; it knows plain observations and the environment's own bounds."""
    mean, deviation = problem.statistics.mean, np.sqrt(problem.statistics.var)

    def policy(state: Episodes) -> torch.Tensor:
        plain = (state.observation.numpy() * deviation + mean).astype(np.float32)
        actions, _ = model.predict(plain, deterministic=True)
        return torch.as_tensor(model.policy.scale_action(actions))

    return policy


def read(path: Path) -> list[dict[str, str]]:
    """Rows of returns.csv."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def collect(path: Path, seeds: int) -> None:
    """Make all runs that returns.csv does not hold, seed by seed."""
    done = {(row["environment"], row["variant"], int(row["seed"])) for row in read(path)}
    for seed in range(seeds):
        for environment, task in TASKS.items():
            for variant in (*task.variants, *PEERS):
                if (environment, variant, seed) in done:
                    continue
                if variant in task.variants:
                    points = run_ours(environment, task, task.variants[variant], seed)
                else:
                    points = run_peer(environment, task, PEERS[variant], seed)
                new = not path.is_file()
                with open(path, "a", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file)
                    if new:
                        writer.writerow(COLUMNS)
                    for steps, value, seconds in points:
                        writer.writerow((environment, variant, seed, steps, f"{value:.2f}", f"{seconds:.2f}"))
                print(f"{environment} {variant} seed {seed}: {points[-1][1]:.1f}, {points[-1][2]:.0f} s", flush=True)


def curves(rows: list[dict[str, str]], environment: str, variant: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps [n], returns [seeds, n] and CPU seconds [seeds] of the runs of one variant."""
    of = [row for row in rows if (row["environment"], row["variant"]) == (environment, variant)]
    seeds = sorted({int(row["seed"]) for row in of})
    runs = [[row for row in of if int(row["seed"]) == seed] for seed in seeds]
    steps = np.array([int(row["steps"]) for row in runs[0]]) if runs else np.array([])
    returns = np.array([[float(row["return"]) for row in run] for run in runs])
    return steps, returns, np.array([float(run[-1]["cpu_seconds"]) for run in runs])


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Interquartile mean of the return over environment steps, 95 % intervals as bands, seeds faint."""
    figure = Figure(figsize=(7, 7.5), layout="constrained")
    panels = figure.subplots(2, 1)
    for axes, (environment, task) in zip(panels, TASKS.items(), strict=True):
        for variant, colour in zip((*OURS, *PEERS, *list(task.variants)[len(OURS) :]), COLOURS, strict=False):
            steps, returns, _ = curves(rows, environment, variant)
            if not len(steps):
                continue
            for one in returns:
                axes.plot(steps, one, color=colour, linewidth=0.6, alpha=0.3)
            estimates = [estimate(values) for values in returns.T]
            axes.plot(steps, [one.value for one in estimates], color=colour, linewidth=1.8, label=variant)
            if len(returns) > 1:
                low, high = np.array([one.interval for one in estimates], dtype=float).T
                axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.axhline(task.goal, color="0.55", linewidth=0.8)
        axes.annotate(
            "goal",
            (1, task.goal),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="0.35",
        )
        axes.set_title(environment, fontsize=10, loc="left")
        axes.set_ylabel("return of an episode")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels:
        axes.legend(frameon=False, fontsize=8, loc="best")
    panels[-1].set_xlabel("environment steps")
    figure.savefig(path, dpi=150)


def table(rows: list[dict[str, str]]) -> str:
    """Results as Markdown."""
    lines = ["| environment | variant | seeds at the goal, at the end | ever | return at the end (all seeds) | CPU s |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    for environment, task in TASKS.items():
        for variant in (*task.variants, *PEERS):
            _, returns, seconds = curves(rows, environment, variant)
            if not len(returns):
                continue
            last, count = returns[:, -1], len(returns)
            reached = (int((last >= task.goal).sum()), int((returns.max(1) >= task.goal).sum()))
            ends = f"{estimate(last).value:.0f} ({last.min():.0f} to {last.max():.0f})"
            lines.append(
                f"| {environment} | {variant} | {reached[0]} of {count} | {reached[1]} of {count} | {ends} | "
                f"{np.median(seconds):.0f} |"
            )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Make what is missing, then figure and table."""
    given = dict(argument.split("=", 1) for argument in arguments)
    out = Path(given.get("out", "docs/results/gymnasium"))
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    collect(out / "returns.csv", int(given.get("seeds", 5)))
    rows = read(out / "returns.csv")
    draw(rows, out / "learning_curves.png")
    print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
