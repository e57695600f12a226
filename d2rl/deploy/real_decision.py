"""The whole decision, from channels to precoder and power, as one module without complex numbers.

It repeats the observation of a cell, the action heads and the closed-form rate in the real form of
:mod:`d2rl.wireless.real_algebra`; policy networks are the trained modules themselves. Only for export:
in torch the complex form is faster.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from d2rl.algorithm.networks.action_chain import ActionChain
from d2rl.algorithm.networks.mlp import MLPEncoder
from d2rl.algorithm.policy import Policy
from d2rl.problems.base import Layout, Observation
from d2rl.problems.full_duplex.observation import BITS, KnownCell, log_gain
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.heads import ActionHead, StructuredHead
from d2rl.wireless.link_rates import FAINT_POWER
from d2rl.wireless.real_algebra import (
    RealChannels,
    column_power,
    embed,
    identity_like,
    magnitudes,
    normalized,
    pairs,
    solve,
    whiten,
)

OUTPUTS = ("precoder", "uplink_power")


class RealDecision(nn.Module):
    """Channels, link weights and the chain's noise in; precoder and uplink power out, all of them real.

    Example::

        decision = RealDecision(policy, best_of=1)
        example = decision.example(batch=2)
        precoder, uplink_power = decision(*example.values())

    :param policy: what decides
    :param best_of: N, candidates of which the best weighted closed-form rate on the given channels wins
    """

    def __init__(self, policy: Policy, best_of: int = 1):
        super().__init__()
        self.problem: Any = policy.problem
        problem = self.links(self.problem)
        self.cell = problem.frozen(1, 0, "cpu").channels
        self.layout, self.head, self.best_of = problem.layout, problem.head, best_of
        self.head_name = problem.config.head
        trained = policy.policy
        self.diffusion = isinstance(trained, ActionChain)
        self.policy: Any = deepcopy(trained).cpu().eval().requires_grad_(False)
        if isinstance(self.policy.encoder, MLPEncoder):
            self.policy.encoder = RealMLPEncoder(self.policy.encoder)

    def links(self, problem: Any) -> Any:
        """The full-duplex cell that is decided for."""
        return problem

    def example(self, batch: int, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Inputs by name, in order, with the shapes to expect; the channels are those of one cell.

        ``noise`` is there for a diffusion policy, ``proposal_weights`` (the weights that each candidate is made
        for) with several candidates.
        """
        links = self.cell.links
        inputs = RealChannels.of(self.cell[torch.zeros(batch, dtype=torch.long)]).tensors()
        inputs = {**inputs, **self.asked(batch)}
        if self.best_of > 1:
            inputs["proposal_weights"] = torch.ones(batch, self.best_of, links)
        if isinstance(self.policy, ActionChain):
            shape = (batch, self.best_of, self.policy.schedule.steps, links, self.layout.width)
            inputs["noise"] = torch.randn(shape, generator=generator)
            if self.policy.config.calm_first:
                inputs["noise"][:, 0].zero_()
        return inputs

    def asked(self, batch: int) -> dict[str, Tensor]:
        """The inputs beside channels and noise."""
        return {"weights": torch.ones(batch, self.cell.links)}

    def states(self, drops: int, seed: int) -> Any:
        """States to compare decisions in."""
        return self.problem.frozen(drops, seed, "cpu")

    def known(self, states: Any) -> ChannelState:
        """What is known of their channels."""
        return states.estimate

    def with_known(self, states: Any, channels: ChannelState) -> Any:
        """The same states with other channels known."""
        return replace(states, estimate=channels)

    def given(self, states: Any) -> dict[str, Tensor]:
        """The inputs of :meth:`asked` in these states."""
        return {"weights": states.weights}

    def description(self) -> dict[str, Any]:
        """What a user of the exported file must know: sizes, candidates, kind of policy."""
        cell = self.cell
        return {
            "downlink_users": cell.downlink_users,
            "uplink_users": cell.uplink_users,
            "transmit_antennas": cell.transmit_antennas,
            "receive_antennas": cell.receive_antennas,
            "best_of": self.best_of,
            "policy": "diffusion" if self.diffusion else "deterministic",
            "head": self.head_name,
            "calm_first": self.diffusion and self.policy.config.calm_first,
        }

    def forward(
        self,
        downlink: Tensor,
        uplink: Tensor,
        cross: Tensor,
        self_interference: Tensor,
        weights: Tensor,
        *further: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Precoder [B, N_t, K_D, 2] and uplink power [B, K_U]; the inputs are those of :meth:`example`, in order."""
        channels, given = RealChannels(downlink, uplink, cross, self_interference), list(further)
        proposal_weights = given.pop(0) if self.best_of > 1 else weights.unsqueeze(1)
        noise = given.pop(0).permute(2, 0, 1, 3, 4).flatten(1, 2).unsqueeze(2) if self.diffusion else None
        cell = RealCell.of(channels)
        beams, power = self.decide(cell, self.propose(cell, proposal_weights, noise), weights > 0)
        if self.best_of > 1:
            rates = link_rates(cell, beams, power)
            best = (rates * weights.unsqueeze(1)).sum(-1).argmax(-1)
            chosen = F.one_hot(best, self.best_of).to(power.dtype)
            beams = (beams * chosen[:, :, None, None]).sum(1)
            power = (power * chosen[:, :, None]).sum(1)
        else:
            beams, power = beams.squeeze(1), power.squeeze(1)
        return pairs(beams[..., ::2]).float(), power.float()

    def decide(self, cell: RealCell, action: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Real forms of the precoders and powers of N actions [B, N, size]; links that are not wanted stay silent.

        :param wanted: [B, K] bool
        """
        # onnxruntime's sigmoid is never exactly 0 in single precision
        beams, power = decode(self.head, cell, action.clamp(-1, 1).double())
        down, up = wanted.to(power.dtype).unsqueeze(1).tensor_split([self.cell.downlink_users], dim=-1)
        return beams * down.repeat_interleave(2, dim=-1).unsqueeze(-2), power * up

    def propose(self, cell: RealCell, weights: Tensor, noise: Tensor | None) -> Tensor:
        """One action for each of the weights [B, N, K]: [B, N, size]."""
        return self.act(observe(cell, weights, self.layout.numbers), noise).unflatten(0, (-1, self.best_of))

    def act(self, observation: Observation, noise: Tensor | None) -> Tensor:
        """One action for each observation, [B, size]."""
        if isinstance(self.policy, ActionChain):
            return self.policy.sample(observation, 1, noises=noise).squeeze(1).tanh()
        return self.policy(observation).tanh()


class RealMLPEncoder(nn.Module):
    """An :class:`MLPEncoder` that reads :class:`RealChannels`.

    :param encoder: the trained one
    """

    def __init__(self, encoder: MLPEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, observation: Observation) -> Tensor:
        """Embeddings [B, K, width]."""
        flat = torch.cat([tensor.flatten(1, 2) for tensor in observation.known.channels.tensors().values()], dim=1)
        magnitude = flat.square().sum(-1, keepdim=True).sqrt()
        compressed = flat * (torch.log10(1 + magnitude) / magnitude.clamp_min(1e-12))
        inputs = torch.cat([compressed.flatten(1), torch.log(observation.weights.clamp_min(1e-3))], dim=-1)
        return self.encoder.out(self.encoder.body(inputs))


@dataclass(frozen=True)
class RealCell:
    """What features and head share of B states, as real forms in double precision.

    Columns of ``g`` and ``h`` are the users' channels, of ``beams`` their directions, of ``combiners`` the MMSE
    combiners without self-interference, of ``leakage`` H_S^H v_k.
    """

    channels: RealChannels
    g: Tensor  # [B, 2 N_t, 2 K_D]
    h: Tensor  # [B, 2 N_r, 2 K_U]
    cross: Tensor  # [B, 2 K_U, 2 K_D]
    self_interference: Tensor  # [B, 2 N_r, 2 N_t]
    suppression: Tensor  # [B, 3, n, n] inverses of I + G^H G, K_D I + G^H G, I + H^H H, the smaller one padded
    beams: Tensor  # [B, 2 N_t, 2 K_D]
    combiners: Tensor  # [B, 2 N_r, 2 K_U]
    leakage: Tensor  # [B, 2 N_t, 2 K_U]
    basis: Tensor  # [B, 2 N_t, 2 K], directions of beams and of leakage

    @classmethod
    def of(cls, channels: RealChannels) -> RealCell:
        """Prepare channels."""
        g, h = (embed(x.double().transpose(-3, -2)) for x in (channels.downlink, channels.uplink))
        cross, self_interference = (embed(x.double()) for x in (channels.cross, channels.self_interference))
        down, up = g.shape[-1], h.shape[-1]
        size = max(down, up)
        gram_down, gram_up = _padded(g.mT @ g, size), _padded(h.mT @ h, size)
        loading = torch.tensor([1.0, down / 2, 1.0], dtype=g.dtype, device=g.device)[:, None, None]
        systems = torch.stack([gram_down, gram_down, gram_up], dim=1) + loading * identity_like(gram_up)
        suppression = solve(systems, identity_like(systems).expand_as(systems))
        combiners = normalized(h @ suppression[:, 2, :up, :up])
        leakage = self_interference.mT @ combiners
        beams = normalized(g)
        basis = torch.cat([beams, normalized(leakage)], dim=-1)
        return cls(channels, g, h, cross, self_interference, suppression, beams, combiners, leakage, basis)


def observe(cell: RealCell, weights: Tensor, numbers: tuple[int, int]) -> Observation:
    """The features of a cell for N versions of the link weights [B, N, K], batch B N."""
    down, up = cell.g.shape[-1], cell.h.shape[-1]
    cast = weights.dtype
    leaked = cell.self_interference @ cell.beams
    received = torch.cat(
        [
            torch.cat([cell.g.mT @ cell.beams, cell.cross.mT], dim=-1),
            cell.combiners.mT @ torch.cat([leaked, cell.h], dim=-1),
        ],
        dim=-2,
    )
    matched = normalized(cell.h)
    parallel = torch.cat([F.pad(cell.beams.mT @ cell.beams, (0, up)), F.pad(matched.mT @ matched, (down, 0))], dim=-2)
    received, parallel = magnitudes(torch.stack([received, parallel], dim=1)[..., ::2]).unbind(1)

    inverse = (cell.suppression * identity_like(cell.suppression)).sum(-1)
    suppressed = (1 / torch.cat([inverse[:, 0, :down], inverse[:, 2, :up]], dim=-1) - 1).clamp_min(0)
    gain = torch.cat([column_power(cell.g), column_power(cell.h)], dim=-1)
    leaks = torch.cat([column_power(leaked), column_power(cell.leakage)], dim=-1)
    gains = log_gain(torch.stack([gain, suppressed, leaks], dim=-1)[:, ::2].to(cast))

    rzf = normalized(cell.g @ cell.suppression[:, 1, :down, :down]) / (down / 2) ** 0.5
    reference = link_rates(cell, rzf, torch.ones_like(column_power(cell.h))[..., ::2]).to(cast)
    direction = _direction(down // 2, up // 2, weights)
    fixed = torch.cat([direction.expand(weights.shape[0], -1, -1), gains, reference.unsqueeze(-1) / BITS], dim=-1)
    fixed, asked = fixed.unsqueeze(1).expand(-1, weights.shape[1], -1, -1), torch.log(weights.clamp_min(1e-3))
    nodes = torch.cat([fixed, asked.unsqueeze(-1)], dim=-1)
    same = (direction @ direction.mT).expand_as(received)
    log_received = log_gain(received.to(cast))
    edges = torch.stack([log_received, log_received.mT, parallel.to(cast), same], dim=-1)
    copies = weights.shape[1]

    def repeated(tensor: Tensor) -> Tensor:
        return tensor if copies == 1 else tensor.repeat_interleave(copies, dim=0)

    channels = RealChannels(*map(repeated, cell.channels.tensors().values()))
    known = KnownCell(channels, repeated(cell.basis))
    layout = Layout((down // 2, up // 2), numbers)
    own = repeated(edges), weights.flatten(0, 1), repeated(reference)
    return Observation(nodes.flatten(0, 1), *own, known, layout)


def decode(head: ActionHead, cell: RealCell, action: Tensor) -> tuple[Tensor, Tensor]:
    """Real forms of precoders and uplink powers of N actions for each state.

    :param action: [B, N, size] in [-1, 1]
    :returns: [B, N, 2 N_t, 2 K_D] and [B, N, K_U]
    """
    users = cell.channels.downlink_users
    if not isinstance(head, StructuredHead):
        numbers, power = head.layout.split(action, users)
        precoder = embed(numbers.unflatten(-1, (-1, 2)).transpose(-3, -2).double())
        total = (column_power(precoder).sum(-1) / 2).clamp_min(1).sqrt()
        return precoder / total[..., None, None], (power.squeeze(-1) + 1) / 2
    strength, share, power = head.read(action, users)
    strength, amplitude = strength.double(), (share.double() + FAINT_POWER).sqrt()
    beams = shaped_beams(cell.basis.unsqueeze(1), strength, amplitude)
    directions = cell.beams.unsqueeze(1).expand(-1, action.shape[1], -1, -1)
    for _ in range(1, head.passes):
        leakage = settled_leakage(cell, beams, power)
        beams = shaped_beams(torch.cat([directions, leakage], dim=-1), strength, amplitude)
    return beams, power


def shaped_beams(basis: Tensor, strength: Tensor, amplitude: Tensor) -> Tensor:
    """Real form of :func:`d2rl.wireless.shaped_beams.shaped_beams`, [B, N, 2 N_t, 2 K_D].

    :param basis: [B, 1 or N, 2 N_t, 2 K]      :param strength: [B, N, K]      :param amplitude: [B, N, K_D]
    """
    right = basis[..., : 2 * amplitude.shape[-1]].expand(*amplitude.shape[:2], -1, -1)
    basis = basis * strength.sqrt().repeat_interleave(2, dim=-1).unsqueeze(-2)
    if basis.shape[-2] <= basis.shape[-1]:
        system = basis @ basis.mT
        beams = solve(system + identity_like(system), right)
    else:  # (I + B B^H)^-1 B = B (I + B^H B)^-1
        system = basis.mT @ basis
        identity = identity_like(system)
        beams = basis @ solve(system + identity, identity[:, : right.shape[-1]].expand(*right.shape[:2], -1, -1))
    return normalized(beams) * amplitude.repeat_interleave(2, dim=-1).unsqueeze(-2)


def settled_leakage(cell: RealCell, beams: Tensor, power: Tensor) -> Tensor:
    """Directions H_S^H v_k of the :func:`d2rl.wireless.heads.settled_combiners`, [B, N, 2 N_t, 2 K_U].

    :param beams: [B, N, 2 N_t, 2 K_D]      :param power: [B, N, K_U]
    """
    streams, interference = cell.h.unsqueeze(1), cell.self_interference.unsqueeze(1)
    sent = streams * power.double().sqrt().repeat_interleave(2, dim=-1).unsqueeze(-2)
    disturbance = torch.cat([interference @ beams, sent], dim=-1)
    system = disturbance @ disturbance.mT
    right = torch.cat([streams, interference], dim=-1).expand(*system.shape[:2], -1, -1)
    streams, interference = whiten(system + identity_like(system), right).split(
        [streams.shape[-1], interference.shape[-1]], dim=-1
    )
    return normalized(interference.mT @ streams)


def link_rates(cell: RealCell, precoder: Tensor, power: Tensor) -> Tensor:
    """Rates of :func:`d2rl.wireless.link_rates` on the known channels, [..., K_D + K_U].

    1 / (1 + SINR_U(k)) is a diagonal element of the inverse of I + [H_S W, X]^H [H_S W, X], x_k = sqrt(p_k) h_k: its
    last block is the inverse of the Schur complement I + X^H (I + H_S W W^H H_S^H)^-1 X.

    :param precoder: real form, [B, 2 N_t, 2 K_D] or [B, N, 2 N_t, 2 K_D]
    :param power: [B, K_U] or [B, N, K_U]
    """
    many = precoder.dim() == 4
    g, h, cross, interference = (
        x.unsqueeze(1) if many else x for x in (cell.g, cell.h, cell.cross, cell.self_interference)
    )
    received = magnitudes((g.mT @ precoder)[..., ::2])
    own = identity_like(received)
    signal = (received * own).sum(-1)
    others = (received * (1 - own)).sum(-1)
    amplitude = power.double().sqrt().unsqueeze(-2)
    crossed = (magnitudes(cross[..., ::2]) * amplitude.square().mT).sum(-2)
    downlink = torch.log2(1 + signal / (others + crossed + 1))

    streams = torch.cat([interference @ precoder, h * amplitude.repeat_interleave(2, dim=-1)], dim=-1)
    gram = streams.mT @ streams
    identity = identity_like(gram)
    columns = identity[:, precoder.shape[-1] :].expand(*gram.shape[:-2], -1, -1)
    error = column_power(whiten(gram + identity, columns))[..., ::2]
    return torch.cat([downlink, -torch.log2(error)], dim=-1)


def _padded(matrix: Tensor, size: int) -> Tensor:
    missing = size - matrix.shape[-1]
    return F.pad(matrix, (0, missing, 0, missing)) if missing else matrix


def _direction(downlink_users: int, uplink_users: int, like: Tensor) -> Tensor:
    """[1, K, 2]: one for downlink, one for uplink."""
    rows = [[1.0, 0.0]] * downlink_users + [[0.0, 1.0]] * uplink_users
    return torch.tensor([rows], dtype=like.dtype, device=like.device)
