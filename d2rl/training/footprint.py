"""How much memory a run will need, said before it begins."""

from __future__ import annotations

import os

import torch

from d2rl.common.errors import ConfigError
from d2rl.config.defaults import Config, FullDuplexConfig, RunConfig
from d2rl.problems.full_duplex.cell_sizes import cells_of
from d2rl.problems.full_duplex.observation import EDGE_FEATURES, NODE_FEATURES
from d2rl.problems.full_duplex.state_rows import PLACE_SIZE

SINGLE, COMPLEX, DOUBLE = 4, 8, 16  # bytes: float32, complex64, complex128
GIB = 2**30
UNKNOWN = 2**62  # bytes
BEST_OF = 16  # candidates of the last evaluation
TRAINING = ("ddpg", "trainer")  # sections of the keys that an evaluation has no use for
COPIES = 4  # of a weight: itself, its gradient and Adam's two moments


def footprint(config: Config) -> dict[str, float]:
    """Bytes that the large parts of a run need, by the keys that decide them; an estimate within a factor of two.

    What is counted: tensors that stay (world, stored states, frozen drops with the references, weights) and
    the largest temporary ones (candidates decoded in double precision, messages between links in an update). Of
    several loads the largest counts.
    """
    own, *others = (_footprint(config, cell) for cell in cells_of(config.scenario))
    return {
        keys: max([size, *(other[keys] for other in others)]) if keys.startswith(TRAINING) else size
        for keys, size in own.items()
    }


def _footprint(config: Config, c: FullDuplexConfig) -> dict[str, float]:
    network = config.network
    n_t, n_r, k_d, k_u = c.transmit_antennas, c.receive_antennas, c.downlink_users, c.uplink_users
    links = k_d + k_u
    channel = k_d * n_t + k_u * n_r + k_u * k_d + n_r * n_t
    numbers = 2 * links if c.head != "beamforming" else 2 * n_t * k_d + k_u
    observation = COMPLEX * (channel + n_t * links) + SINGLE * ((NODE_FEATURES + 2) * links + EDGE_FEATURES * links**2)
    candidate = SINGLE * (numbers + 4 * links)  # with rates, a generated reward and what the critic sees
    transition = observation * (2 if config.ddpg.gamma > 0 else 1) + config.action.candidates * candidate
    algebra = 3 * DOUBLE * (channel + n_t**2 + n_r**2 + (n_t + n_r) * links)  # of one decision
    width = network.width if network.kind == "link_graph" else 8 * network.width
    messages = SINGLE * width * (links**2 if network.kind == "link_graph" else links) * network.layers
    candidates = config.action.candidates
    best_of = max(config.evaluation.best_of, BEST_OF)
    return {
        "trainer.num_envs and action.candidates": config.trainer.num_envs
        * (8 * COMPLEX * channel + candidates * (algebra + messages)),
        "ddpg.batch, ddpg.critic_batch and network.width": max(config.ddpg.batch, config.ddpg.critic_batch)
        * (2 * transition + 3 * max(candidates, config.action.samples) * messages),
        "scenario.stored_states": 3 * COMPLEX * channel * c.stored_states,
        "evaluation.drops and evaluation.best_of": config.evaluation.drops
        * (observation + algebra + best_of * (algebra / 3 + messages / network.layers)),
        "scenario.transmit_antennas and scenario.receive_antennas": _state_explorer(config),
        "network.width and network.layers": _networks(config, channel, numbers, width),
    }


def check_footprint(config: RunConfig, device: torch.device, training: bool = True) -> None:
    """Refuse what cannot fit.

    :param training: count what only training needs
    :raises ConfigError: names the largest part, its keys and the memory there is
    """
    if not isinstance(config, Config):
        return  # the sizes of other problems are theirs to know; the replay is measured in any case
    parts = {keys: size for keys, size in footprint(config).items() if training or not keys.startswith(TRAINING)}
    needed, there = sum(parts.values()), memory_of(device)
    if needed > there:
        keys, most = max(parts.items(), key=lambda item: item[1])
        raise ConfigError(
            f"this needs about {_size(needed)} of memory, {_size(most)} of them for {keys}; "
            f"{device.type} has {_size(there)}. Lower {keys}."
        )


def memory_of(device: torch.device) -> int:
    """Bytes of memory that the device has in all."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return installed_bytes()


def installed_bytes() -> int:
    """Bytes of the machine's memory; where the system does not say (Windows), more than anything needs."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        return UNKNOWN


def _state_explorer(config: Config) -> int:
    """SENPNN, where it is planned: weights grow with the length of a row, of H_S with N_t N_r."""
    if config.stages.state is None:
        return 0
    n_t, n_r, width = config.scenario.transmit_antennas, config.scenario.receive_antennas, config.state.width
    weights = sum((3 * row + 4 * width + PLACE_SIZE + 4 * config.state.steps) * width for row in (2 * n_t, 2 * n_r, 2))
    weights += (3 * 2 * n_t * n_r + 4 * width + 4 * config.state.steps) * width
    rows = config.trainer.num_envs * 2 * n_t * n_r * config.state.steps  # of H_S, on the way
    return SINGLE * (COPIES * weights + rows)


def _networks(config: Config, channel: int, numbers: int, width: int) -> int:
    """Encoders and critics: two of each with their targets, AENPNN and RENPNN."""
    inward = 2 * channel + numbers if config.network.kind == "mlp" else 2 * NODE_FEATURES
    return 6 * COPIES * SINGLE * (inward * width + 6 * config.network.layers * width**2)


def _size(count: float) -> str:
    return f"{count / GIB:,.1f} GiB"
