"""The full-duplex cell, batched: users, fading, what the base station knows, slot after slot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from d2rl.common.errors import CheckpointError, ConfigError, counted
from d2rl.common.notices import notice_once
from d2rl.common.tensor_struct import TensorStruct
from d2rl.config.defaults import FullDuplexConfig
from d2rl.problems.base import stream
from d2rl.problems.full_duplex.scenario_bank import link_budget, scenario_bank
from d2rl.wireless.channel_bank import ChannelBank
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.fading import estimate, evolve, jakes_correlation, rayleigh, rician, scale, steering
from d2rl.wireless.heads import ActionHead
from d2rl.wireless.link_rates import link_rates
from d2rl.wireless.propagation import LinkGains, Positions, user_positions


@dataclass(frozen=True)
class CellState(TensorStruct):
    """What is true of B cells in one slot.

    :param channels: the true channels, which decide the rates
    :param estimate: what the base station knows of them
    :param gains: mean gain of every channel coefficient
    :param weights: [B, K_D + K_U], priority of every link
    :param scattered: whitened small-scale part, from which the next slot evolves; None for stored states
    :param positions: of the users; None where a channel bank does not tell, and for states of one to be evaluated on
    :param slot: slots since the reset
    """

    channels: ChannelState
    estimate: ChannelState
    gains: LinkGains
    weights: Tensor
    scattered: ChannelState | None = None
    positions: Positions | None = None
    slot: int = 0


class Cells:
    """How cells begin and move on; the channels do so by themselves, whatever the base station decides.

    Each cell keeps its users for ``episode_length`` slots of Gauss-Markov fading and is then dropped again (a
    truncation, never a termination), with ``fixed_drop`` always in the same places. Cells are staggered, so that every
    slot brings new drops. With ``stored_states`` or a ``channel_bank`` every slot shows states of a fixed set instead,
    drawn at random.

    :param config: the scenario
    :param seed: of the fixed set of states
    :param kept: whether of a channel bank the states are shown that are kept for evaluation
    """

    def __init__(self, config: FullDuplexConfig, seed: int = 0, kept: bool = False):
        self.config, self.seed, self.kept = config, seed, kept
        self.budget = link_budget(config)
        self.correlation = jakes_correlation(config.speed / 3.6, config.carrier * 1e9, config.slot * 1e-3)
        self._stored: CellState | None = None
        self._fixed: Positions | None = None

    def stored(self, device: torch.device) -> CellState | None:
        """The fixed set of states; None where every slot is new."""
        if self._stored is None and self.config.channel_bank:
            self._stored = self._of_bank(device)
        elif self._stored is None and self.config.stored_states:
            generator = torch.Generator(device).manual_seed(stream(f"env/{self.seed}"))
            drops = self._dropped(self.config.stored_states, generator)
            self._stored = replace(drops, scattered=None, weights=torch.ones_like(drops.weights))
        return self._stored

    def reset(self, batch: int, generator: torch.Generator) -> CellState:
        """B cells, dropped or recalled, on the device of the generator."""
        stored = self.stored(generator.device)
        return self._dropped(batch, generator) if stored is None else self._recalled(stored, batch, 0, generator)

    def advance(self, state: CellState, generator: torch.Generator) -> tuple[CellState, CellState, Tensor]:
        """Move on by one slot.

        :returns: what the cells become, in an episode that ends its last state; the states to go on from, new drops
            where an episode has ended; [B] bool, whose has
        """
        batch, slot, device = state.batch, state.slot + 1, generator.device
        truncated = torch.zeros(batch, dtype=torch.bool, device=device)
        stored = self.stored(device)
        if stored is not None:
            truncated.fill_(True)
            state = self._recalled(stored, batch, slot, generator)
            return state, state, truncated
        assert state.scattered is not None  # only stored states have none
        moved = replace(state, scattered=evolve(state.scattered, self.correlation, generator), slot=slot)
        ended = slice((-slot) % self.config.episode_length, None, self.config.episode_length)
        truncated[ended].fill_(True)
        count = len(range(*ended.indices(batch)))
        if not count:
            state = self._measured(moved, generator)
            return state, state, truncated
        state = self._measured(moved.with_rows(ended, self._drop(count, generator)), generator)
        return state.with_rows(ended, self._measured(moved[ended], generator)), state, truncated

    def with_channels(self, state: CellState, channels: ChannelState, generator: torch.Generator) -> CellState:
        """``state`` with other true channels, and new estimates of them."""
        known = estimate(channels, state.gains, self.config.csi_error, generator)
        return replace(state, channels=channels, estimate=known)

    def state_dict(self) -> dict[str, Any]:
        """The fixed set of states, as plain containers; of a channel bank what names it, since the file holds it."""
        if self.config.channel_bank:
            return {"digest": scenario_bank(self.config).digest, "seed": self.seed}
        return {} if self._stored is None else {"stored": self._stored.tensors()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue with a saved set of states.

        :raises CheckpointError: the channel bank has become another one
        """
        if self.config.channel_bank:
            if scenario_bank(self.config).digest != saved["digest"]:
                raise CheckpointError(
                    f"scenario.channel_bank={self.config.channel_bank} has changed since the checkpoint was written; "
                    "bring the old file back, or train again."
                )
            if self.seed != saved["seed"]:
                self.seed, self._stored = saved["seed"], None
        elif "stored" in saved and self._stored is not None:
            device = self._stored.weights.device
            self._stored = self._stored.with_tensors({n: t.to(device) for n, t in saved["stored"].items()})

    def _dropped(self, count: int, generator: torch.Generator) -> CellState:
        return self._measured(self._drop(count, generator), generator)

    def _drop(self, count: int, generator: torch.Generator) -> CellState:
        """New users; the channels are still to be measured."""
        c = self.config
        downlink, uplink = self._places(count, generator)
        shapes = ChannelState(
            downlink.new_empty(count, c.downlink_users, c.transmit_antennas),
            downlink.new_empty(count, c.uplink_users, c.receive_antennas),
            downlink.new_empty(count, c.uplink_users, c.downlink_users),
            downlink.new_empty(count, c.receive_antennas, c.transmit_antennas),
        )
        scattered = rayleigh(shapes, generator)
        gains, weights = self.budget.gains(downlink, uplink), self._weights(count, generator)
        return CellState(scattered, scattered, gains, weights, scattered, Positions(downlink, uplink))

    def _places(self, count: int, generator: torch.Generator) -> Positions:
        """Where users are dropped, or where they stay."""
        if self.config.fixed_drop is None:
            return self._drawn_places(count, generator)
        if self._fixed is None or self._fixed.downlink.device != generator.device:
            own = torch.Generator().manual_seed(stream(f"drop/{self.config.fixed_drop}"))  # one place on every device
            self._fixed = self._drawn_places(1, own).map(lambda places: places.to(generator.device))
        return self._fixed.repeat(count)

    def _drawn_places(self, count: int, generator: torch.Generator) -> Positions:
        c = self.config
        ring = c.cell_radius, c.minimum_distance, generator, generator.device
        return Positions(*(user_positions(count, users, *ring) for users in (c.downlink_users, c.uplink_users)))

    def _weights(self, count: int, generator: torch.Generator) -> Tensor:
        c, device = self.config, generator.device
        direction = torch.randn(count, 2, generator=generator, device=device) * c.priority_direction
        users = torch.randn(count, c.downlink_users + c.uplink_users, generator=generator, device=device)
        down, up = direction.split(1, dim=1)  # tensors of counts or values would have to be waited for
        common = torch.cat([down.expand(-1, c.downlink_users), up.expand(-1, c.uplink_users)], dim=1)
        weights = torch.exp(common + users * c.priority_user)
        return weights * self._wanted(count, generator) if c.priority_zero else weights

    def _wanted(self, count: int, generator: torch.Generator) -> Tensor:
        """Which links a drop wants at all, [count, K_D + K_U] bool: all but in a share ``priority_zero`` of the drops.

        Of these, half want one direction alone, the others any number of links from one to all.
        """
        links = self.config.downlink_users + self.config.uplink_users
        drawn = torch.rand(count, links + 3, generator=generator, device=generator.device)
        limited, kind, level, each = drawn.split([1, 1, 1, links], dim=1)
        uplink = torch.arange(links, device=generator.device) >= self.config.downlink_users
        direction = uplink == (kind < 0.25)
        some = (each >= level) | (each == each.amax(1, keepdim=True))
        return (limited >= self.config.priority_zero) | torch.where(kind < 0.5, direction, some)

    def _measured(self, state: CellState, generator: torch.Generator) -> CellState:
        """The state with the channels of its small-scale part, and an estimate of them."""
        assert state.scattered is not None
        return self.with_channels(state, self._faded(state.scattered, state), generator)

    def line_of_sight(self, state: CellState) -> ChannelState:
        """The part of the channels that does not fade; 0 where fading is Rayleigh's."""
        return self._faded(state.channels.map(torch.zeros_like), state)

    def _faded(self, scattered: ChannelState, state: CellState) -> ChannelState:
        """Channels of a small-scale part, with line of sight and mean gains."""
        c, places = self.config, state.positions
        assert places is not None
        small = ChannelState(
            rician(scattered.downlink, c.rician, steering(places.downlink, c.transmit_antennas)),
            rician(scattered.uplink, c.rician, steering(places.uplink, c.receive_antennas)),
            scattered.cross,
            rician(scattered.self_interference, c.self_interference_rician),
        )
        return scale(small, state.gains)

    def _of_bank(self, device: torch.device) -> CellState:
        """States of the channel bank to train on, of these ``stored_states`` chosen by the seed; or those kept."""
        bank = scenario_bank(self.config).split()[self.kept].to(device)
        count = 0 if self.kept else self.config.stored_states
        generator = torch.Generator(device).manual_seed(stream(f"bank/{self.seed}"))
        if count > len(bank):
            raise ConfigError(
                f"scenario.stored_states={count} is more than the {counted(len(bank), 'state')} that "
                f"scenario.channel_bank={self.config.channel_bank} has to train on; lower it, or set it to 0 for all."
            )
        if count:
            bank = bank[torch.randperm(len(bank), generator=generator, device=device)[:count]]
        return replace(_known(bank, self.config.csi_error, generator), positions=bank.positions)

    def _recalled(self, stored: CellState, batch: int, slot: int, generator: torch.Generator) -> CellState:
        chosen = torch.randint(stored.batch, (batch,), generator=generator, device=generator.device)
        state = stored[chosen]
        return replace(state, weights=state.weights * self._weights(batch, generator), slot=slot)


def evaluation_states(config: FullDuplexConfig, drops: int, seed: int, device: str | torch.device = "cpu") -> CellState:
    """Frozen drops with equal weights, the same for every policy that is evaluated with this seed.

    With a ``channel_bank`` the states that it keeps for evaluation, with its weights: ``drops`` of them chosen by the
    seed, or all where there are fewer; these do not tell where users are.
    """
    if config.channel_bank:
        held_out = scenario_bank(config).split()[1].to(torch.device(device))
        if len(held_out) < drops:
            notice_once(
                f"scenario.channel_bank={config.channel_bank} keeps {counted(len(held_out), 'state')} for evaluation, "
                f"fewer than the {drops} asked for: all that is there is used."
            )
        generator = torch.Generator(device).manual_seed(stream(f"evaluation/{seed}"))
        chosen = torch.randperm(len(held_out), generator=generator, device=device)[:drops].sort().values
        return _known(held_out[chosen], config.csi_error, generator)
    generator = torch.Generator(device).manual_seed(stream(f"evaluation/{seed}"))
    return Cells(equal_priorities(config)).reset(drops, generator)


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

    :param precoder: [B M, N_t, K_D]
    :param uplink_power: [B M, K_U]
    """
    copies = uplink_power.shape[0] // channels.batch
    return link_rates(channels.repeat(copies), precoder, uplink_power).unflatten(0, (-1, copies))


def told_alike(total: Tensor, weights: Tensor) -> Tensor:
    """What each link is told where a cell tells its weighted sum alone: the same number, of which that is the sum.

    :param total: [B, M] or [B]
    :param weights: [B, 1, K] or [B, K]; where no link has one, 0 is told
    :returns: [B, M, K] or [B, K]
    """
    each = total / weights.sum(-1).clamp_min(1e-30)
    return each.unsqueeze(-1).expand(*each.shape, weights.shape[-1])
