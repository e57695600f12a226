"""How right RENPNN is about the rewards of links with queues: generated ones beside the true ones.

    python benchmarks/split_reports.py RUN [RUN ...]

For runs of ``conf=traffic_reports`` with perfect CSI, where the utility of every slot in the replay can be computed
afterwards, and for runs in which every reward was measured and generated, as of acknowledgements. Of the last 60 slots:
correlation, share of the variance that is explained, mean error by queue, and the share of rewards within the middle
50, 80 and 95 % of 100 draws. Windows of one cell in eight were not learned from; of measured rewards all may have been.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from d2rl.algorithm.agent import D2RL
from d2rl.problems.base import Transition
from d2rl.training.checkpoint import config_of, load_checkpoint

SLOTS, DRAWS = 60, 100
INTERVALS = (0.5, 0.8, 0.95)
QUEUES = (0.0, 1e-3, 2.0, 5.0, 10.0, 20.0, float("inf"))


def replayed(agent: D2RL, checkpoint: dict) -> Transition:
    """The latest slots of a run's replay."""
    saved, count = checkpoint["d2rl"]["ranks"][0]["worlds"][0]["replay"], SLOTS * agent.world.batch
    seen = agent.problem.observe(agent.world.state)
    action = torch.zeros(agent.world.batch, 1, agent.problem.layout.size)
    form = Transition(seen, action, agent.view(seen, action), torch.zeros_like(seen.baseline).unsqueeze(1))
    index = (torch.arange(count) - count + saved["position"]) % saved["filled"]
    return form.with_tensors({name: saved["storage"][name][index] for name in form.tensors()})


@torch.no_grad()
def describe(path: Path) -> str:
    """Figures of one run, in a line for each group of queues."""
    checkpoint = load_checkpoint(path / "checkpoints/last.ckpt")
    agent = D2RL(config_of(checkpoint))
    agent.load_state_dict(checkpoint["state_dict"])
    batch, generator = replayed(agent, checkpoint), torch.Generator().manual_seed(0)
    observation, problem = batch.observation, agent.problem
    if agent.splits_reports:
        true = problem.utility(observation, problem.decode(observation, batch.action))
        true = true - observation.baseline.unsqueeze(1)
        drawn = agent.renpnn.draw(observation, batch.view, DRAWS, generator)
        mean = agent.renpnn.generate(observation, batch.view, 1, generator)
    else:
        true = agent.case.reward(batch.utility, observation)
        unit = agent.config.ddpg.reward_scale / problem.layout.entities**0.5  # bit/s/Hz-slots
        drawn = agent.renpnn.draw(observation, batch.view, DRAWS, generator) * unit
        mean = drawn.mean(2)
    within = torch.stack([_holds(drawn, true, share) for share in INTERVALS])
    error = mean - true
    correlation = torch.corrcoef(torch.stack([mean.flatten(), true.flatten()]))[0, 1]
    explained = 1 - error.square().mean() / true.var()
    lines = [f"{path}: correlation {correlation:.3f}, explained {explained:.3f}, {_shares(within)}"]
    queues = observation.known.waiting.queues.unsqueeze(1)
    for low, high in pairwise(QUEUES):
        chosen = (queues >= low) & (queues < high)
        moments = _moments(true[chosen], error[chosen])
        lines.append(f"  queue from {low:g}: {int(chosen.sum())} rewards, {moments}, {_shares(within[:, chosen])}")
    return "\n".join(lines)


def _holds(drawn: Tensor, true: Tensor, share: float) -> Tensor:
    """Whether the middle share of draws [B, M, draws, K] holds the true rewards [B, M, K]."""
    low, high = torch.quantile(drawn, torch.tensor([0.5 - share / 2, 0.5 + share / 2]), dim=2)
    return (true >= low) & (true <= high)


def _shares(within: Tensor) -> str:
    return "within " + ", ".join(f"{float(one.float().mean()):.2f}" for one in within)


def _moments(true: Tensor, error: Tensor) -> str:
    bias, deviation = error.mean(), error.square().mean().sqrt()
    return f"mean {true.mean():+.2f}, error {bias:+.2f} on average and {deviation:.2f} root mean square"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(describe(Path(name)))
