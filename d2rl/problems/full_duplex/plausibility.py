"""Are generated channels plausible? Two-sample metrics of synthetic against real channels.

Rows are channel vectors of one kind (a user's antennas, the self-interference matrix, one cross channel).
Zero means indistinguishable, except for the nearest-neighbour ratio, where that is one. Finite samples are
never at zero: :func:`plausibility` puts beside each value what chance gives between two real samples.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.fading import whiten
from d2rl.wireless.link_rates import link_rates
from d2rl.wireless.precoders import full_uplink_power, rzf
from d2rl.wireless.propagation import LinkGains
from d2rl.wireless.wmmse import wmmse

PAIRWISE_ROWS = 512  # most rows of a sample in statistics that need all pairwise distances
WMMSE_ITERATIONS = 30
CONFIDENCE = 0.95


def covariance_error(real: Tensor, synthetic: Tensor, norm: Tensor | None = None) -> Tensor:
    """||C_synthetic - C_real||_F / ||C_real||_F of the rows' covariances.

    :param real: [n, d], complex
    :param synthetic: [m, d], complex
    :param norm: in place of ||C_real||_F
    """
    expected = real.mT.cov(correction=0)
    norm = torch.linalg.norm(expected) if norm is None else norm
    return _ratio(torch.linalg.norm(synthetic.mT.cov(correction=0) - expected), norm)


def magnitude_ks(real: Tensor, synthetic: Tensor) -> Tensor:
    """Kolmogorov-Smirnov distance of the magnitudes |h| of all coefficients; complex rows [n, d] and [m, d]."""
    return kolmogorov_smirnov(real.abs(), synthetic.abs())


def gain_ks(real: Tensor, synthetic: Tensor) -> Tensor:
    """Kolmogorov-Smirnov distance of the gain in dB, the mean of |h|^2 over a row; complex rows [n, d] and [m, d]."""
    return kolmogorov_smirnov(*(10 * torch.log10(rows.abs().square().mean(-1)) for rows in (real, synthetic)))


def antenna_correlation_error(real: Tensor, synthetic: Tensor) -> Tensor:
    """|rho_synthetic - rho_real| of the complex correlation of adjacent antennas; complex rows [n, d] and [m, d]."""
    return (_adjacent_correlation(synthetic) - _adjacent_correlation(real)).abs()


def maximum_mean_discrepancy(real: Tensor, synthetic: Tensor) -> Tensor:
    """Unbiased MMD^2 with a Gaussian kernel as wide as the median distance (Gretton et al., JMLR 2012).

    Of each sample the first 512 rows count. It may fall slightly below zero.

    :param real: [n, d], complex, two rows or more
    :param synthetic: [m, d], complex, two rows or more
    """
    rows = [_real(real)[:PAIRWISE_ROWS], _real(synthetic)[:PAIRWISE_ROWS]]
    n, m = len(rows[0]), len(rows[1])
    both = torch.cat(rows)
    squared = torch.cdist(both, both).square()
    kernel = torch.exp(-squared / (2 * squared[:n, :n].median().clamp_min(1e-12)))
    within = [
        (block.sum() - block.diagonal().sum()) / (k * (k - 1))
        for block, k in ((kernel[:n, :n], n), (kernel[n:, n:], m))
    ]
    return within[0] + within[1] - 2 * kernel[:n, n:].mean()


def neighbour_ratio(real: Tensor, synthetic: Tensor, training: Tensor) -> Tensor:
    """Memorisation: median distance to the nearest training row, of synthetic over real rows.

    One for rows as new as real ones are, zero for copies of the training set.

    :param real: [n, d], complex
    :param synthetic: [m, d], complex
    :param training: [t, d], complex; the rows that the generator was trained on
    """
    stored = _real(training)
    nearest = [torch.cdist(_real(rows)[:PAIRWISE_ROWS], stored).amin(-1).median() for rows in (synthetic, real)]
    return torch.where(nearest[0] == nearest[1], 1, _ratio(*nearest))


def kolmogorov_smirnov(first: Tensor, second: Tensor) -> Tensor:
    """Largest gap between the empirical distribution functions of two samples, real, of any shape."""
    first, second = first.flatten(), second.flatten()
    points = torch.cat([first, second])
    below = [torch.searchsorted(sample.sort().values, points, right=True) / len(sample) for sample in (first, second)]
    return (below[0] - below[1]).abs().amax()


def plausibility(
    real: ChannelState,
    synthetic: ChannelState,
    gains_real: LinkGains,
    gains_synthetic: LinkGains,
    training: tuple[ChannelState, LinkGains] | None = None,
    bootstrap: int = 20,
    *,
    generator: torch.Generator,
) -> dict[str, dict[str, float | bool]]:
    """Every metric of synthetic against real channels, beside what chance gives.

    Chance is the 95 % quantile of the metric between two samples of the sizes at hand, both resampled (whole
    states, with replacement) from the real one; for the nearest-neighbour ratio the 5 % quantile. Shape metrics
    look at whitened rows, the gain and the rates at the channels themselves.

    :param real: channels kept from the generator's training, 2 states or more
    :param synthetic: generated channels, 2 states or more
    :param training: channels and gains that the generator was trained on, for the nearest-neighbour ratio
    :param bootstrap: resamplings, at least 1
    :returns: by name (``downlink/covariance``, ..., ``rate/wmmse``): ``value``, ``chance`` and ``within``, true
        where the value is no worse than chance
    :raises ValueError: fewer states or resamplings
    """
    states = (real.batch, synthetic.batch)
    if min(states) < 2 or bootstrap < 1:
        raise ValueError(f"plausibility needs 2 states of each and 1 resampling, got {states} and {bootstrap}")
    draws = [
        [torch.randint(states[0], (size,), generator=generator, device=generator.device) for size in states]
        for _ in range(bootstrap)
    ]
    report = {}
    for name, (statistic, first, second) in _comparisons(
        (real, gains_real), (synthetic, gains_synthetic), training
    ).items():
        value = statistic(first.flatten(0, -2), second.flatten(0, -2))
        null = torch.stack([statistic(first[i].flatten(0, -2), first[j].flatten(0, -2)) for i, j in draws])
        more_is_better = name.endswith("neighbour")
        chance = null.quantile(1 - CONFIDENCE if more_is_better else CONFIDENCE)
        within = value >= chance if more_is_better else value <= chance
        report[name] = {"value": float(value), "chance": float(chance), "within": bool(within)}
    return report


def sum_rates(channels: ChannelState, method: str) -> Tensor:
    """Sum rate that a classical method reaches on each state, [B, 1], bit/s/Hz.

    :param method: ``rzf`` at full power, or ``wmmse`` of 30 iterations
    :raises ValueError: another method
    """
    if method == "rzf":
        decision = rzf(channels), full_uplink_power(channels)
    elif method == "wmmse":
        decision = wmmse(channels, WMMSE_ITERATIONS)
    else:
        raise ValueError(f"the rate metric knows rzf and wmmse, not {method!r}")
    return link_rates(channels, *decision).sum(-1, keepdim=True)


def _comparisons(
    real: tuple[ChannelState, LinkGains],
    synthetic: tuple[ChannelState, LinkGains],
    training: tuple[ChannelState, LinkGains] | None,
) -> dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]]:
    """Statistic and the two samples [states, rows, d] of every metric by name."""
    pairs: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]] = {}
    shape, shape_made = (_rows(whiten(*sample)) for sample in (real, synthetic))
    power, power_made = (_rows(sample[0]) for sample in (real, synthetic))
    stored = _rows(whiten(*training)) if training else {}
    for kind, rows in shape.items():
        made, wide = shape_made[kind], rows.shape[-1] > 1
        pairs[f"{kind}/magnitude"] = magnitude_ks, rows, made
        pairs[f"{kind}/gain"] = gain_ks, power[kind], power_made[kind]
        if wide:
            norm = torch.linalg.norm(rows.flatten(0, -2).mT.cov(correction=0))  # resampling would inflate it
            pairs[f"{kind}/covariance"] = partial(covariance_error, norm=norm), rows, made
            pairs[f"{kind}/mmd"] = maximum_mean_discrepancy, rows, made
        if wide and kind != "self_interference":
            pairs[f"{kind}/antenna_correlation"] = antenna_correlation_error, rows, made
        if wide and training:
            known = stored[kind].flatten(0, -2)
            pairs[f"{kind}/nearest_neighbour"] = partial(neighbour_ratio, training=known), rows, made
    for method in ("rzf", "wmmse"):
        pairs[f"rate/{method}"] = kolmogorov_smirnov, sum_rates(real[0], method), sum_rates(synthetic[0], method)
    return pairs


def _rows(channels: ChannelState) -> dict[str, Tensor]:
    """Channel vectors of every kind that plays a part, [B, rows, d]."""
    rows = {
        "downlink": channels.downlink,
        "uplink": channels.uplink,
        "cross": channels.cross.flatten(1).unsqueeze(-1),
        "self_interference": channels.self_interference.flatten(1).unsqueeze(1),
    }
    return {name: rows[name] for name in channels.active()}


def _real(rows: Tensor) -> Tensor:
    return torch.view_as_real(rows.resolve_conj()).flatten(-2)


def _adjacent_correlation(rows: Tensor) -> Tensor:
    return _ratio((rows[:, 1:] * rows[:, :-1].conj()).mean(), rows.abs().square().mean())


def _ratio(value: Tensor, reference: Tensor) -> Tensor:
    """``value / reference``, and 0 / 0 = 0: two samples that are both silent do not differ."""
    return torch.where(value == 0, 0, value / reference)
