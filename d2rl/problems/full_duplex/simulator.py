"""The full-duplex cell as a batched environment on one device."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from d2rl.common.errors import CheckpointError, ConfigError
from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.full_duplex.scenario_bank import link_budget, notice_once, scenario_bank
from d2rl.wireless.channel_bank import ChannelBank
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.fading import estimate, evolve, jakes_correlation, rayleigh, rician, scale
from d2rl.wireless.heads import ActionHead, make_head
from d2rl.wireless.link_rates import link_rates
from d2rl.wireless.propagation import LinkGains, user_positions

Positions = tuple[Tensor, Tensor]  # m, base station at the origin: downlink users [B, K_D, 2], uplink users [B, K_U, 2]


@dataclass(frozen=True)
class CellState:
    """What is true of B cells in one slot.

    :param channels: the true channels, which decide the rates
    :param estimate: what the base station knows of them
    :param gains: mean gain of every channel coefficient
    :param weights: [B, K_D + K_U], priority of every link
    """

    channels: ChannelState
    estimate: ChannelState
    gains: LinkGains
    weights: Tensor

    def __getitem__(self, index: Tensor | slice) -> CellState:
        """Cells selected along the batch."""
        return CellState(self.channels[index], self.estimate[index], self.gains[index], self.weights[index])


class FullDuplexEnv:
    """B cells side by side; the channels move on by themselves, whatever the action.

    Each cell keeps its users for ``episode_length`` slots of Gauss-Markov fading and is then dropped
    anew (a truncation, never a termination). Cells are staggered, so that every slot brings new drops.
    With ``stored_states`` or a ``channel_bank`` every slot shows states of a fixed set instead, drawn at random.
    All randomness comes from a generator of its own.

    Example::

        env = FullDuplexEnv(FullDuplexConfig(), num_envs=64, seed=0)
        state = env.reset()
        rates = env.measure(state, torch.zeros(64, env.action_size))  # [64, K_D + K_U]
        state, truncated = env.advance()

    :param config: the scenario
    :param num_envs: B
    :param seed: of this environment's generator
    :param device: where everything lives
    """

    _scattered: ChannelState

    def __init__(self, config: FullDuplexConfig, num_envs: int, seed: int, device: str | torch.device = "cpu"):
        self.config, self.num_envs, self.device = config, num_envs, torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(stream(f"env/{seed}"))
        self.head = make_head(config.head, config.transmit_antennas)
        self.budget = link_budget(config)
        self.correlation = jakes_correlation(config.speed / 3.6, config.carrier * 1e9, config.slot * 1e-3)
        self.slot = 0
        self.seed = seed
        self.bank = self._training_bank() if config.channel_bank else None
        self.reset()

    @property
    def action_size(self) -> int:
        """Length of an action."""
        return self.head.layout.size(self.state.channels)

    def reset(self) -> CellState:
        """Drop every cell anew."""
        self.slot = 0
        if self.config.stored_states and self.bank is None:
            self._drop_all(self.config.stored_states)
            drops = self._observe()
            self.bank = replace(drops, weights=torch.ones_like(drops.weights))
        if self.bank is None:
            self._drop_all(self.num_envs)
            self.state = self._observe()
        else:
            self.state = self._recall(self.bank)
        return self.state

    def branch(self, name: str) -> CellState:
        """Drop every cell anew from another stream of random numbers; a fixed set of states stays the same."""
        self.generator.manual_seed(stream(f"env/{self.seed}/{name}"))
        return self.reset()

    def advance(self) -> tuple[CellState, Tensor]:
        """Move on by one slot.

        :returns: the new state, and [B] bool: whose episode ended before it
        """
        self.slot += 1
        truncated = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        if self.bank is not None:
            truncated.fill_(True)
            self.state = self._recall(self.bank)
            return self.state, truncated
        self._scattered = evolve(self._scattered, self.correlation, self.generator)
        ended = slice((-self.slot) % self.config.episode_length, None, self.config.episode_length)
        truncated[ended].fill_(True)
        count = len(range(*ended.indices(self.num_envs)))
        if count:
            self._redrop(ended, count)
        self.state = self._observe()
        return self.state, truncated

    def measure(self, state: CellState, action: Tensor) -> Tensor:
        """Link rates that actions reach on the true channels, decided on the estimate.

        :param action: [B, size] or [B, M, size] for M candidates per state, in [-1, 1]
        :returns: [B, K_D + K_U] or [B, M, K_D + K_U], bit/s/Hz
        """
        if action.dim() == 2:
            return self.measure(state, action.unsqueeze(1)).squeeze(1)
        return decided_rates(self.head, state.channels, action, state.estimate)

    def with_channels(self, state: CellState, channels: ChannelState) -> CellState:
        """``state`` with other true channels, and new estimates of them."""
        known = estimate(channels, state.gains, self.config.csi_error, self.generator)
        return replace(state, channels=channels, estimate=known)

    def step(self, action: Tensor) -> tuple[CellState, Tensor, Tensor]:
        """Act, then move on: the next state, the link rates [B, K_D + K_U] and the truncations [B]."""
        rates = self.measure(self.state, action)
        state, truncated = self.advance()
        return state, rates, truncated

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly from here, as plain containers."""
        world = {"slot": self.slot, "generator": self.generator.get_state(), "state": _pack(self.state)}
        if self.config.channel_bank:  # the file holds the states
            return {**world, "channel_bank": {"digest": scenario_bank(self.config).digest, "seed": self.seed}}
        if self.bank is not None:
            return {**world, "bank": _pack(self.bank)}
        return {
            **world,
            "scattered": self._scattered.tensors(),
            "gains": self._gains.tensors(),
            "weights": self._weights,
            "positions": list(self.positions),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from a saved environment.

        :raises CheckpointError: the channel bank has become another one
        """
        self.slot = saved["slot"]
        self.generator.set_state(saved["generator"].cpu())
        self.state = _unpack(saved["state"], self.device)
        if self.config.channel_bank:
            if scenario_bank(self.config).digest != saved["channel_bank"]["digest"]:
                raise CheckpointError(
                    f"scenario.channel_bank={self.config.channel_bank} has changed since the checkpoint was written; "
                    "bring the old file back, or train anew."
                )
            self.seed = saved["channel_bank"]["seed"]
            self.bank = self._training_bank()
            return
        if "bank" in saved:
            self.bank = _unpack(saved["bank"], self.device)
            return
        self._scattered = ChannelState(**_to(saved["scattered"], self.device))
        self._gains = LinkGains(**_to(saved["gains"], self.device))
        self._weights = saved["weights"].to(self.device)
        self.positions = tuple(place.to(self.device) for place in saved["positions"])

    def _drop_all(self, count: int) -> None:
        self.positions, self._gains, self._scattered, self._weights = self._drop(count)

    def _redrop(self, cells: slice, count: int) -> None:
        """Drop some cells anew; replaces tensors and writes into none, since states and saved copies hold them."""
        positions, gains, scattered, weights = self._drop(count)
        self.positions = tuple(_replaced(old, cells, new) for old, new in zip(self.positions, positions, strict=True))
        old_gains, old_scattered = self._gains.tensors(), self._scattered.tensors()
        self._gains = LinkGains(**{n: _replaced(old_gains[n], cells, new) for n, new in gains.tensors().items()})
        self._scattered = ChannelState(
            **{n: _replaced(old_scattered[n], cells, new) for n, new in scattered.tensors().items()}
        )
        self._weights = _replaced(self._weights, cells, weights)

    def _drop(self, count: int) -> tuple[tuple[Tensor, Tensor], LinkGains, ChannelState, Tensor]:
        c, draw = self.config, (self.generator, self.device)
        downlink = user_positions(count, c.downlink_users, c.cell_radius, c.minimum_distance, *draw)
        uplink = user_positions(count, c.uplink_users, c.cell_radius, c.minimum_distance, *draw)
        shapes = ChannelState(
            downlink.new_empty(count, c.downlink_users, c.transmit_antennas),
            downlink.new_empty(count, c.uplink_users, c.receive_antennas),
            downlink.new_empty(count, c.uplink_users, c.downlink_users),
            downlink.new_empty(count, c.receive_antennas, c.transmit_antennas),
        )
        scattered = rayleigh(shapes, self.generator)
        return (downlink, uplink), self.budget.gains(downlink, uplink), scattered, self._draw_weights(count)

    def _draw_weights(self, count: int) -> Tensor:
        c = self.config
        direction = torch.randn(count, 2, generator=self.generator, device=self.device) * c.priority_direction
        users = torch.randn(count, c.downlink_users + c.uplink_users, generator=self.generator, device=self.device)
        down, up = direction.split(1, dim=1)  # tensors of counts or values would have to be waited for
        common = torch.cat([down.expand(-1, c.downlink_users), up.expand(-1, c.uplink_users)], dim=1)
        weights = torch.exp(common + users * c.priority_user)
        return weights * self._draw_wanted(count) if c.priority_zero else weights

    def _draw_wanted(self, count: int) -> Tensor:
        """Which links a drop wants at all, [count, K_D + K_U] bool: all but in a share ``priority_zero`` of the drops.

        Of these, half want one direction alone, the others any number of links from one to all.
        """
        links = self.config.downlink_users + self.config.uplink_users
        drawn = torch.rand(count, links + 3, generator=self.generator, device=self.device)
        limited, kind, level, each = drawn.split([1, 1, 1, links], dim=1)
        uplink = torch.arange(links, device=self.device) >= self.config.downlink_users
        direction = uplink == (kind < 0.25)
        some = (each >= level) | (each == each.amax(1, keepdim=True))
        return (limited >= self.config.priority_zero) | torch.where(kind < 0.5, direction, some)

    def _observe(self) -> CellState:
        c, small = self.config, self._scattered
        down, up = self.positions
        small = ChannelState(
            rician(small.downlink, c.rician, steering(down, c.transmit_antennas)),
            rician(small.uplink, c.rician, steering(up, c.receive_antennas)),
            small.cross,
            rician(small.self_interference, c.self_interference_rician),
        )
        channels = scale(small, self._gains)
        known = estimate(channels, self._gains, c.csi_error, self.generator)
        return CellState(channels, known, self._gains, self._weights)

    def _training_bank(self) -> CellState:
        """States of the channel bank to train on; of these, ``stored_states`` chosen by the seed."""
        bank, count = scenario_bank(self.config).split()[0].to(self.device), self.config.stored_states
        generator = torch.Generator(self.device).manual_seed(stream(f"bank/{self.seed}"))
        if count > len(bank):
            raise ConfigError(
                f"scenario.stored_states={count} is more than the {len(bank)} states that "
                f"scenario.channel_bank={self.config.channel_bank} has to train on; lower it, or set it to 0 for all."
            )
        if count:
            bank = bank[torch.randperm(len(bank), generator=generator, device=self.device)[:count]]
        return _known(bank, self.config.csi_error, generator)

    def _recall(self, bank: CellState) -> CellState:
        chosen = torch.randint(bank.weights.shape[0], (self.num_envs,), generator=self.generator, device=self.device)
        state = bank[chosen]
        return replace(state, weights=state.weights * self._draw_weights(self.num_envs))


def evaluation_states(config: FullDuplexConfig, drops: int, seed: int, device: str | torch.device = "cpu") -> CellState:
    """The states of :func:`evaluation_drops`."""
    return evaluation_drops(config, drops, seed, device)[0]


def evaluation_drops(
    config: FullDuplexConfig, drops: int, seed: int, device: str | torch.device = "cpu"
) -> tuple[CellState, Positions | None]:
    """Frozen drops with equal weights, the same for every policy that is evaluated with this seed.

    With a ``channel_bank`` the states that it keeps for evaluation, with its weights: ``drops`` of them chosen by the
    seed, or all where there are fewer.

    :returns: the states, and where their users are; None for the states of a bank, which does not tell
    """
    if config.channel_bank:
        held_out = scenario_bank(config).split()[1].to(torch.device(device))
        if len(held_out) < drops:
            notice_once(
                f"scenario.channel_bank={config.channel_bank} keeps {len(held_out)} states for evaluation, fewer than "
                f"the {drops} asked for: all of them are used."
            )
        generator = torch.Generator(device).manual_seed(stream(f"evaluation/{seed}"))
        chosen = torch.randperm(len(held_out), generator=generator, device=device)[:drops].sort().values
        return _known(held_out[chosen], config.csi_error, generator), None
    env = FullDuplexEnv(equal_priorities(config), drops, seed=0, device=device)
    env.generator.manual_seed(stream(f"evaluation/{seed}"))
    return env.reset(), env.positions


def equal_priorities(config: FullDuplexConfig) -> FullDuplexConfig:
    """The scenario with drops without end that want every link alike."""
    return replace(config, stored_states=0, priority_direction=0.0, priority_user=0.0, priority_zero=0.0)


def _known(bank: ChannelBank, csi_error: float, generator: torch.Generator) -> CellState:
    """States of a bank, each with one estimate."""
    known = estimate(bank.channels, bank.gains, csi_error, generator)
    return CellState(bank.channels, known, bank.gains, bank.weights)


def decided_rates(
    head: ActionHead, channels: ChannelState, action: Tensor, known: ChannelState | None = None
) -> Tensor:
    """Link rates of M actions for each state, [B, M, K_D + K_U]; differentiable in the action.

    :param channels: the channels that decide the rates
    :param action: [B, M, size]
    :param known: the channels that the head sees; default ``channels``
    """
    copies = action.shape[1]
    return rates_of(channels, *head.decode((channels if known is None else known).repeat(copies), action.flatten(0, 1)))


def rates_of(channels: ChannelState, precoder: Tensor, uplink_power: Tensor) -> Tensor:
    """Link rates [B, M, K_D + K_U] of M decisions for each state, which stand side by side.

    :param precoder: [B M, N_t, K_D]      :param uplink_power: [B M, K_U]
    """
    copies = uplink_power.shape[0] // channels.batch
    return link_rates(channels.repeat(copies), precoder, uplink_power).unflatten(0, (-1, copies))


def stream(name: str) -> int:
    """A seed of its own for every named stream of random numbers."""
    return zlib.crc32(name.encode())


def steering(positions: Tensor, antennas: int) -> Tensor:
    """Response of a half-wavelength linear array along x to users at ``positions``: [B, K, antennas]."""
    cosine = positions[..., 0] / positions.norm(dim=-1)
    phase = math.pi * cosine.unsqueeze(-1) * torch.arange(antennas, device=positions.device)
    return torch.polar(torch.ones_like(phase), phase)


def _replaced(tensor: Tensor, cells: slice, new: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor[cells] = new
    return tensor


def _pack(state: CellState) -> dict[str, Any]:
    return {
        "channels": state.channels.tensors(),
        "estimate": state.estimate.tensors(),
        "gains": state.gains.tensors(),
        "weights": state.weights,
    }


def _unpack(saved: dict[str, Any], device: torch.device) -> CellState:
    return CellState(
        ChannelState(**_to(saved["channels"], device)),
        ChannelState(**_to(saved["estimate"], device)),
        LinkGains(**_to(saved["gains"], device)),
        saved["weights"].to(device),
    )


def _to(tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}
