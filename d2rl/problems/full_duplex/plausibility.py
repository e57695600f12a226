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
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.fading import whiten
from d2rl.wireless.link_rates import link_rates
from d2rl.wireless.precoders import full_uplink_power, rzf
from d2rl.wireless.propagation import LinkGains
from d2rl.wireless.wmmse import wmmse

PAIRWISE_ROWS = 512  # most rows of a sample in statistics that need all pairwise distances
WMMSE_ITERATIONS = 30
CONFIDENCE = 0.95


class TwoSampleMetric(Metric):
    """A statistic of a real and a synthetic sample of rows, accumulated over updates."""

    full_state_update = False
    higher_is_better = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.add_state("real", default=[], dist_reduce_fx="cat")
        self.add_state("synthetic", default=[], dist_reduce_fx="cat")

    @staticmethod
    def statistic(real: Tensor, synthetic: Tensor) -> Tensor:
        """The metric of all rows: real [n, d] and synthetic [m, d], complex."""
        raise NotImplementedError

    def update(self, real: Tensor, synthetic: Tensor) -> None:
        """Add rows: real [..., d] and synthetic [..., d], complex."""
        self.real.append(real.flatten(0, -2))
        self.synthetic.append(synthetic.flatten(0, -2))

    def compute(self) -> Tensor:
        """The statistic of everything seen, a scalar."""
        return self.statistic(dim_zero_cat(self.real), dim_zero_cat(self.synthetic))


class CovarianceError(TwoSampleMetric):
    """||C_synthetic - C_real||_F / ||C_real||_F of the rows' covariances."""

    @staticmethod
    def statistic(real: Tensor, synthetic: Tensor, norm: Tensor | None = None) -> Tensor:
        """Relative error of the covariance of rows [m, d] against that of [n, d], or over a given ``norm``."""
        expected = real.mT.cov(correction=0)
        norm = torch.linalg.norm(expected) if norm is None else norm
        return _ratio(torch.linalg.norm(synthetic.mT.cov(correction=0) - expected), norm)


class MagnitudeKS(TwoSampleMetric):
    """Kolmogorov-Smirnov distance of the magnitudes |h| of all coefficients."""

    @staticmethod
    def statistic(real: Tensor, synthetic: Tensor) -> Tensor:
        """Largest gap of the two distribution functions of |h|; rows [n, d] and [m, d]."""
        return kolmogorov_smirnov(real.abs().flatten(), synthetic.abs().flatten())


class GainKS(TwoSampleMetric):
    """Kolmogorov-Smirnov distance of the gain in dB, the mean of |h|^2 over a row."""

    @staticmethod
    def statistic(real: Tensor, synthetic: Tensor) -> Tensor:
        """Largest gap of the two distribution functions of the gain; rows [n, d] and [m, d]."""
        return kolmogorov_smirnov(_gain_db(real), _gain_db(synthetic))


class AntennaCorrelationError(TwoSampleMetric):
    """Difference in modulus of the complex correlation of adjacent antennas."""

    @staticmethod
    def statistic(real: Tensor, synthetic: Tensor) -> Tensor:
        """|rho_synthetic - rho_real|; rows [n, d] and [m, d]."""
        return (_adjacent_correlation(synthetic) - _adjacent_correlation(real)).abs()


class MaximumMeanDiscrepancy(TwoSampleMetric):
    """Unbiased MMD^2 with a Gaussian kernel as wide as the median distance (Gretton et al., JMLR 2012).

    Of each sample the first 512 rows count. It may fall slightly below zero.
    """

    @staticmethod
    def statistic(real: Tensor, synthetic: Tensor) -> Tensor:
        """MMD^2 of rows [n, d] and [m, d], each of two rows or more."""
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


class NearestNeighbourRatio(TwoSampleMetric):
    """Memorisation: median distance to the nearest training row, of synthetic over real rows.

    One for rows as new as real ones are, zero for copies of the training set.

    :param training: [..., d], complex; the rows that the generator was trained on
    """

    higher_is_better = True

    def __init__(self, training: Tensor, **kwargs):
        super().__init__(**kwargs)
        self.register_buffer("training_rows", training.flatten(0, -2), persistent=False)

    def compute(self) -> Tensor:
        """The ratio for everything seen, a scalar."""
        return self.ratio(dim_zero_cat(self.real), dim_zero_cat(self.synthetic), self.training_rows)

    @staticmethod
    def ratio(real: Tensor, synthetic: Tensor, training: Tensor) -> Tensor:
        """Ratio of the medians; rows [n, d], [m, d] and [t, d]."""
        stored = _real(training)
        nearest = [torch.cdist(_real(rows)[:PAIRWISE_ROWS], stored).amin(-1).median() for rows in (synthetic, real)]
        return torch.where(nearest[0] == nearest[1], 1, _ratio(*nearest))


class RateKS(TwoSampleMetric):
    """Kolmogorov-Smirnov distance of the sum rate that a classical method reaches on the channels.

    :param method: ``rzf`` (full power) or ``wmmse`` (30 iterations)
    """

    def __init__(self, method: str = "rzf", **kwargs):
        super().__init__(**kwargs)
        self.method = method

    @staticmethod
    def statistic(real: Tensor, synthetic: Tensor) -> Tensor:
        """Largest gap of the distribution functions of sum rates [n, 1] and [m, 1]."""
        return kolmogorov_smirnov(real.flatten(), synthetic.flatten())

    def update(self, real: ChannelState, synthetic: ChannelState) -> None:  # type: ignore[override]
        """Add the sum rates of noise-normalised channels."""
        self.real.append(sum_rates(real, self.method))
        self.synthetic.append(sum_rates(synthetic, self.method))


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


def kolmogorov_smirnov(first: Tensor, second: Tensor) -> Tensor:
    """Largest gap between the empirical distribution functions of two samples, [n] and [m]."""
    points = torch.cat([first, second])
    below = [torch.searchsorted(sample.sort().values, points, right=True) / len(sample) for sample in (first, second)]
    return (below[0] - below[1]).abs().amax()


def sum_rates(channels: ChannelState, method: str) -> Tensor:
    """Sum rate in bit/s/Hz that ``rzf`` or ``wmmse`` reaches on each state, [B, 1]."""
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
        pairs[f"{kind}/magnitude"] = MagnitudeKS.statistic, rows, made
        pairs[f"{kind}/gain"] = GainKS.statistic, power[kind], power_made[kind]
        if wide:
            norm = torch.linalg.norm(rows.flatten(0, -2).mT.cov(correction=0))  # resampling would inflate it
            pairs[f"{kind}/covariance"] = partial(CovarianceError.statistic, norm=norm), rows, made
            pairs[f"{kind}/mmd"] = MaximumMeanDiscrepancy.statistic, rows, made
        if wide and kind != "self_interference":
            pairs[f"{kind}/antenna_correlation"] = AntennaCorrelationError.statistic, rows, made
        if wide and training:
            known = stored[kind].flatten(0, -2)
            pairs[f"{kind}/nearest_neighbour"] = partial(NearestNeighbourRatio.ratio, training=known), rows, made
    for method in ("rzf", "wmmse"):
        pairs[f"rate/{method}"] = RateKS.statistic, sum_rates(real[0], method), sum_rates(synthetic[0], method)
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


def _gain_db(rows: Tensor) -> Tensor:
    return 10 * torch.log10(rows.abs().square().mean(-1))


def _adjacent_correlation(rows: Tensor) -> Tensor:
    return _ratio((rows[:, 1:] * rows[:, :-1].conj()).mean(), rows.abs().square().mean())


def _ratio(value: Tensor, reference: Tensor) -> Tensor:
    """``value / reference``, and 0 / 0 = 0: two samples that are both silent do not differ."""
    return torch.where(value == 0, 0, value / reference)
