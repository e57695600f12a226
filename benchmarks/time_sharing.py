"""Minimum rates that hold on average over a window: who shares the time without remembering whom it has served?

    python benchmarks/time_sharing.py [minimum=2] [slots=20] [drops=128] [seed=0] [speed=0] [seeds=3] [out=DIR]
                                      [others=NAME=CKPT,...] [only=WORDS,...] [spread=S] [share=P] [patience=V] ...

A cell has more links than it can serve at once, and its channels stay for the window, or move slowly. Every link's mean
rate over the window shall reach a minimum. Deterministic policies decide the same in every slot, stochastic ones draw,
virtual queues remember. Two ways to learn to share without memory: to imitate what virtual queues decide (arXiv
2504.20277), and to ascend what windows of one's own draws bring. Each is there with the draws of AENPNN and, as the
control, with independent Gaussian noise.
"""

from __future__ import annotations

import csv
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import torch
from rich.console import Console
from sharing_policies import (
    CAP,
    Sharing,
    decided,
    for_windows,
    imitators,
    shown_by_queues,
    virtual_queues,
)
from torch import Tensor

from d2rl.algorithm.decisions import decide_in_rounds
from d2rl.algorithm.policy import Policy
from d2rl.common.command_line import run
from d2rl.config.defaults import option
from d2rl.config.load import load
from d2rl.deploy.pretrained import load_policy
from d2rl.problems.base import Observation
from d2rl.problems.full_duplex.simulator import evaluation_states
from d2rl.wireless.fairness import fair_wmmse
from d2rl.wireless.link_rates import link_rates
from d2rl.wireless.objectives import MINIMUM, Objective
from d2rl.wireless.wmmse import wmmse

DRAWN = "actions", "priorities"
IMITATES, ASCENDS = "imitating virtual queues", "trained on its own windows"
ITERATIONS = 100  # of WMMSE for one decision
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5 % quantile for so many seeds
Row = Callable[[list[Observation], torch.Generator], Tensor]  # slots of B states -> rates [slots, B, K]


@dataclass
class SharingConfig:
    """What the command takes."""

    ckpt: str = option("pretrained/any_load", "policy that decides")
    others: str | None = option(None, "NAME=CKPT with commas: further policies, judged by their own noise")
    users: int = option(6, "of each direction", low=1)
    antennas: int = option(4, "N_t = N_r", low=1)
    minimum: float = option(2.0, "mean rate that every link shall have, bit/s/Hz", above=0)
    slots: int = option(20, "of a window", low=1)
    drops: int = option(128, "windows", low=2)
    seed: int = option(0, "of the drops", low=0)
    speed: float = option(0.0, "of the users, km/h; 0: channels stay", low=0)
    seeds: int = option(3, "trainings of each policy that learns, 0: none", low=0, high=5)
    updates: int = option(500, "of each of them", low=1)
    aim: float = option(3.0, "minimum of the virtual queues that they imitate", above=0)
    patience: float = option(1.0, "V: priorities of virtual queues are 1 + queue / V", above=0)
    spread: float = option(0.7, "of random log priorities", low=0)
    share: float = option(0.5, "of the links in a random subset", above=0, high=1)
    groups: int = option(4, "of links that are preferred in turn", low=1)
    preferred: float = option(3.0, "their priority", above=0)
    only: str | None = option(None, "words with commas, one of which a row's name must have; null: all rows")
    out: str | None = option(None, "folder for time_sharing.csv")

    def wants(self, name: str) -> bool:
        """Whether a row of this name is asked for."""
        return self.only is None or any(word in name for word in self.only.split(","))


def sharing_command(arguments: list[str]) -> None:
    """python benchmarks/time_sharing.py [key=value ...]"""
    asked, console = load(arguments, SharingConfig), Console()
    torch.set_num_threads(1)
    policy = policy_for(asked.ckpt, asked)
    window = slots_of(policy, asked)
    found = []

    def judge(name: str, row: Row, seed: int | None = None) -> None:
        if not asked.wants(name):
            return
        with torch.inference_mode():
            rates = row(window, torch.Generator().manual_seed(1000 + (seed or 0)))
            latency = milliseconds(row, window)
        found.append({"method": name, "seed": seed, **judged(rates, asked.minimum), "cpu_ms": latency})
        console.print(line(found[-1:]), markup=False, highlight=False, soft_wrap=True)
        if asked.out is not None:
            write(Path(asked.out).expanduser() / "time_sharing.csv", found, asked)

    for name, row in rows_of(policy, asked).items():
        judge(name, row)
    for given in asked.others.split(",") if asked.others else []:
        name, _, path = given.partition("=")
        other = policy_for(path, asked)
        judge(
            f"{name}: own noise", repeated(lambda seen, slot, g, p=other: decided(p, seen, ones(seen), g, noise=True))
        )
        judge(f"{name}: random priorities", repeated(random_priorities(other, asked.spread)))
    for name, row, seed in learned(policy, asked):
        judge(name, row, seed)
    console.print(table(found), markup=False, highlight=False, soft_wrap=True)


def policy_for(ckpt: str, asked: SharingConfig) -> Policy:
    """A policy in the cell that is asked for."""
    scenario = {
        "downlink_users": asked.users,
        "uplink_users": asked.users,
        "transmit_antennas": asked.antennas,
        "receive_antennas": asked.antennas,
        "loads": "null",
        "speed": asked.speed,
        "episode_length": asked.slots + 1,
    }
    return load_policy(ckpt, [f"scenario.{key}={value}" for key, value in scenario.items()])[0]


def slots_of(policy: Policy, asked: SharingConfig) -> list[Observation]:
    """What is known in every slot; one object for all where channels stay."""
    problem, generator = policy.problem, torch.Generator().manual_seed(asked.seed)
    state = evaluation_states(problem.config, asked.drops, asked.seed)
    if not asked.speed:
        return [problem.observe(state)] * asked.slots
    seen = []
    for _ in range(asked.slots):
        seen.append(problem.observe(state))
        state, _, _ = problem.cells.advance(state, generator)
    return seen


def rows_of(policy: Policy, asked: SharingConfig) -> dict[str, Row]:
    """Everything that does not learn, by name."""
    problem, least = policy.problem, Objective(MINIMUM, asked.minimum)

    def rounds(seen: Observation, generator: torch.Generator) -> Tensor:
        problem.objective, before = least, problem.objective
        decision = decide_in_rounds(policy, seen, 1, generator)
        problem.objective = before
        return problem.utility(seen, decision)[:, 0]

    def searched(seen: Observation, _: torch.Generator) -> Tensor:
        channels = seen.known.channels
        return link_rates(channels, *fair_wmmse(channels, seen.weights, least, ITERATIONS))

    def queues(serve: Callable[[Observation, Tensor, torch.Generator], Tensor]) -> Row:
        def row(window: list[Observation], generator: torch.Generator) -> Tensor:
            def rates(weights: Tensor, slot: int) -> Tensor:
                return serve(window[slot], weights, generator)

            return virtual_queues(rates, ones(window[0]), len(window), asked.minimum, asked.patience)[0]

        return row

    def remembering(window: list[Observation], generator: torch.Generator) -> Tensor:
        return queues(lambda seen, weights, g: decided(policy, seen, weights, g))(window, generator)

    def best_single(window: list[Observation], generator: torch.Generator) -> Tensor:
        tried = [rounds(window[0], generator)[None], searched(window[0], generator)[None]]
        tried += [remembering(window, generator), repeated(random_priorities(policy, asked.spread))(window, generator)]
        return single_best(torch.cat(tried), asked.minimum).expand(len(window), -1, -1)

    def in_turn(seen: Observation, slot: int, generator: torch.Generator) -> Tensor:
        turn = (torch.arange(seen.weights.shape[-1]) + slot) % asked.groups == 0
        return decided(policy, seen, torch.where(turn, asked.preferred, 1.0).expand_as(seen.weights), generator)

    def subset(seen: Observation, slot: int, generator: torch.Generator) -> Tensor:
        drawn = torch.rand(seen.weights.shape, generator=generator)
        return decided(policy, seen, ((drawn < asked.share) | (drawn == drawn.amin(-1, True))).float(), generator)

    def own_noise(seen: Observation, slot: int, generator: torch.Generator) -> Tensor:
        return decided(policy, seen, ones(seen), generator, noise=True)

    found = {
        "sum rate alone, policy": same(lambda seen, g: decided(policy, seen, ones(seen), g)),
        "one decision for the minimum, policy in 24 rounds": same(rounds),
        "one decision for the minimum, WMMSE": same(searched),
        "best single decision of all tried": best_single,
        "own noise": repeated(own_noise),
        "random subsets": repeated(subset),
        "links preferred in turn": repeated(in_turn),
        "random priorities": repeated(random_priorities(policy, asked.spread)),
        "random priorities and own noise": repeated(random_priorities(policy, asked.spread, noise=True)),
        "virtual queues, policy": remembering,
        "virtual queues, WMMSE": queues(
            lambda seen, weights, _: link_rates(
                seen.known.channels, *wmmse(seen.known.channels, ITERATIONS, weights=weights)
            )
        ),
    }
    if asked.speed:  # then there is no single decision
        del found["best single decision of all tried"]
    return found


def learned(policy: Policy, asked: SharingConfig) -> Iterator[tuple[str, Row, int]]:
    """Policies that learn to share, by name and seed, one after the other."""

    def row(sharing: Sharing) -> Row:
        return repeated(lambda seen, _, generator: sharing(seen, generator))

    def imitated(drawn: str) -> bool:
        return any(asked.wants(f"{kind} of {drawn}, {IMITATES}") for kind in ("AENPNN", "Gaussian", "regression"))

    wanted = [drawn for drawn in DRAWN if asked.seeds and imitated(drawn)]
    shown = {drawn: shown_by_queues(policy, drawn, asked.aim, asked.patience) for drawn in wanted}
    for seed, drawn in product(range(asked.seeds), wanted):
        for kind, sharing in imitators(policy, drawn, shown[drawn], asked.updates, seed).items():
            yield f"{kind} of {drawn}, {IMITATES}", row(sharing), seed
    for seed, kind in product(range(asked.seeds), ("AENPNN", "Gaussian noise", "deterministic")):
        if asked.wants(f"{kind}, {ASCENDS}"):
            yield f"{kind}, {ASCENDS}", row(for_windows(policy, kind, asked.minimum, asked.updates, seed)), seed


def ones(seen: Observation) -> Tensor:
    """Equal priorities."""
    return torch.ones_like(seen.weights)


def same(rates: Callable[[Observation, torch.Generator], Tensor]) -> Row:
    """A row that decides once for slots that are alike."""

    def row(window: list[Observation], generator: torch.Generator) -> Tensor:
        found = {id(seen): seen for seen in window}
        decided_once = {key: rates(seen, generator) for key, seen in found.items()}
        return torch.stack([decided_once[id(seen)] for seen in window])

    return row


def repeated(rates: Callable[[Observation, int, torch.Generator], Tensor]) -> Row:
    """A row that decides in every slot without looking back."""
    return lambda window, generator: torch.stack([rates(seen, t, generator) for t, seen in enumerate(window)])


def random_priorities(
    policy: Policy, spread: float, noise: bool = False
) -> Callable[[Observation, int, torch.Generator], Tensor]:
    """Log-normal priorities, drawn again in every slot."""

    def rates(seen: Observation, slot: int, generator: torch.Generator) -> Tensor:
        weights = torch.exp(spread * torch.randn(seen.weights.shape, generator=generator)).clamp(1 / CAP, CAP)
        return decided(policy, seen, weights, generator, noise)

    return rates


def single_best(rates: Tensor, minimum: float) -> Tensor:
    """Of N decisions of each state the one that gives most links the minimum, of these that of the largest sum: [B, K].

    :param rates: [N, B, K]
    """
    score = (rates >= minimum).sum(-1) + rates.sum(-1) / 1e4
    return rates[score.argmax(0), torch.arange(rates.shape[1])]


def judged(rates: Tensor, minimum: float) -> dict[str, float]:
    """Means over windows, and half of their 95 % intervals, from rates [slots, B, K].

    ``served`` is the share of links whose mean rate reaches the minimum, ``all_served`` that of windows in which all
    do, ``shortfall`` what a link misses of it on average.
    """
    mean = rates.double().mean(0)
    reached = (mean >= minimum - 1e-6).double()
    each = {
        "served": reached.mean(-1),
        "all_served": reached.amin(-1),
        "shortfall": (minimum - mean).clamp_min(0).mean(-1),
        "min_rate": mean.amin(-1),
        "sum_rate": mean.sum(-1),
    }
    half = {f"{name}_half": float(1.96 * of.std() / len(of) ** 0.5) for name, of in each.items()}
    return {name: float(of.mean()) for name, of in each.items()} | half


def milliseconds(row: Row, window: list[Observation]) -> float:
    """Median processor time of a decision for one cell."""
    times = []
    for _ in range(5):
        start = time.process_time()
        row([window[0][:1]], torch.Generator())
        times.append(1e3 * (time.process_time() - start))
    return statistics.median(times)


def line(of: list[dict]) -> str:
    """A row of the table, from all seeds of a method."""

    def shown(name: str, digits: int) -> str:
        values = [one[name] for one in of]
        spread = (
            STUDENT[len(of)] * statistics.stdev(values) / math.sqrt(len(of)) if len(of) > 1 else of[0][f"{name}_half"]
        )
        return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"

    numbers = [shown("served", 3), shown("all_served", 2), shown("shortfall", 3), shown("sum_rate", 1)]
    latency = statistics.median(one["cpu_ms"] for one in of)
    return f"| {of[0]['method']} | {' | '.join(numbers)} | {latency:.1f} |"


def table(found: list[dict]) -> str:
    """All methods as Markdown; intervals over seeds where there are some, else over windows."""
    titles = "method", "links at the minimum", "windows with all", "mean shortfall", "sum rate", "ms"
    head = f"| {' | '.join(titles)} |", "|---" + "|---:" * (len(titles) - 1) + "|"
    methods = dict.fromkeys(one["method"] for one in found)
    return "\n".join([*head, *(line([one for one in found if one["method"] == method]) for method in methods)])


def write(path: Path, found: list[dict], asked: SharingConfig) -> None:
    """All rows, with what was asked for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in asdict(asked).items() if key not in ("others", "only", "out", "seed")}
    rows = [{**one, "drops_seed": asked.seed, **settings} for one in found]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    run(sharing_command, SharingConfig)
