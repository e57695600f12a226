"""How many of 2, 4 and 8 equally good actions each objective of AENPNN keeps, on a Q known in closed form.

    python benchmarks/modes.py [--objectives chain,weighted,mixed,flow] [--steps 6] [--seeds 5] [--updates 600]

A state tells whether its modes are 2, 4 or 8, evenly on a circle. Q is 1 at each of them, falls with the squared
distance to the nearest, and is 0 at the centre. Recall is the share of a state's modes near which (Q above 0.75) at
least half of their fair share of 1,024 draws lie. In an update each objective asks for Q about 16 times a state, values
and slopes counted alike.
"""

from __future__ import annotations

import argparse
import math
import statistics

import torch
from torch import Tensor, nn

from d2rl.algorithm.explorers import AENPNN
from d2rl.config.defaults import AENPNNConfig, DDPGConfig
from d2rl.problems.base import Layout, Observation, Transition

COUNTS, RADIUS, NEAR = (2, 4, 8), 0.7, 0.75
COPIES, DRAWS, WIDTH = 8, 128, 32  # each state stands 8 times in a batch
FLOW_TEMPERATURE = 0.3  # others have the default of 2, at which even actions weigh about alike
SAMPLES = {"chain": (16, 1), "weighted": (1, 16), "mixed": (8, 8), "flow": (16, 1)}  # M_c; M_a, candidates measured


class Circles:
    """States with 2, 4 and 8 modes, and their Q."""

    layout = Layout((1,), (2,))

    def __init__(self) -> None:
        angles = [0.3 + 2 * math.pi * torch.arange(8) / count for count in COUNTS]  # some of 8 stand twice or more
        self.modes = RADIUS * torch.stack([torch.stack([one.cos(), one.sin()], -1) for one in angles])
        self.modes = self.modes.repeat_interleave(COPIES, 0)
        kinds = torch.eye(len(COUNTS)).repeat_interleave(COPIES, 0).unsqueeze(1)
        ones = torch.ones(len(kinds), 1)
        self.seen = Observation(kinds, ones.view(-1, 1, 1, 1), ones, ones, (), self.layout)

    def value(self, observation: Observation, action: Tensor) -> Tensor:
        """Q of actions [B, M, 2], [B, M]."""
        squares = (action.unsqueeze(2) - self.modes.unsqueeze(1)).square().sum(-1)
        return 1 - squares.amin(-1) / RADIUS**2

    def recall(self, action: Tensor) -> list[float]:
        """Share of the modes that actions [B, M, 2] keep, of each number of modes."""
        nearest, near = torch.cdist(action, self.modes).argmin(-1), self.value(self.seen, action) > NEAR
        shares = []
        for i, count in enumerate(COUNTS):
            own = slice(i * COPIES, (i + 1) * COPIES)
            found = torch.bincount(nearest[own][near[own]] % count, minlength=count)
            shares.append(float((found >= COPIES * DRAWS / count / 2).float().mean()))
        return shares


class Encoder(nn.Linear):
    """Which kind of state it is, as an embedding."""

    def forward(self, observation: Observation) -> Tensor:
        """[B, 1, width]."""
        return super().forward(observation.nodes)


def train(circles: Circles, objective: str, steps: int, seed: int, updates: int) -> tuple[list[float], list[float]]:
    """Recall and mean Q for each number of modes, after training at the default rates and penalty."""
    torch.manual_seed(seed)
    generator, (samples, candidates) = torch.Generator().manual_seed(seed), SAMPLES[objective]
    config, ddpg = AENPNNConfig(objective=objective, steps=steps, samples=samples), DDPGConfig()
    if objective == "flow":
        config.temperature = FLOW_TEMPERATURE
    encoder = Encoder(len(COUNTS), WIDTH)
    policy = AENPNN(encoder, circles.layout, WIDTH, config, ddpg.saturation_penalty, ddpg.actor_rate)
    optimizer, seen = policy.configure_optimizers(), circles.seen
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates, ddpg.rate_end * ddpg.actor_rate)
    for update in range(updates):
        noise = ddpg.noise + (ddpg.noise_end - ddpg.noise) * update / updates
        with torch.no_grad():
            action = policy.sample(seen, candidates, generator).tanh()
            action = (action + noise * torch.randn(action.shape, generator=generator)).clamp(-1, 1)
        batch = Transition(seen, action, action, action)
        loss, _ = policy.loss(batch, circles.value, lambda tried=action: circles.value(seen, tried), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        drawn = policy.sample(seen, DRAWS, generator).tanh()
    return circles.recall(drawn), circles.value(seen, drawn).unflatten(0, (-1, COPIES)).mean((1, 2)).tolist()


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objectives", default=",".join(SAMPLES))
    parser.add_argument("--steps", default="6")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=600)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    circles = Circles()
    print("| objective | P | recall of 2, 4, 8 modes | mean Q |\n|---|---:|---|---|")
    for objective in arguments.objectives.split(","):
        for steps in map(int, arguments.steps.split(",")):
            runs = [train(circles, objective, steps, seed, arguments.updates) for seed in range(arguments.seeds)]
            recall, value = (
                ", ".join(f"{statistics.mean(of):.2f}" for of in zip(*(run[i] for run in runs), strict=True))
                for i in (0, 1)
            )
            print(f"| {objective} | {steps} | {recall} | {value} |", flush=True)


if __name__ == "__main__":
    main()
