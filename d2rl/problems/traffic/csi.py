"""What a base station makes of channel estimates that are late or noisy."""

from __future__ import annotations

from torch import Tensor

from d2rl.problems.full_duplex.simulator import Cells, CellState
from d2rl.wireless.channel_state import ChannelState
from d2rl.wireless.link_rates import squared_magnitude


class ChannelPrediction:
    r"""From an estimate to the channels to plan with when it is used: conditional means, and what they miss as noise.

    A coefficient of mean gain g, whose mean is m and whose fading part has variance v and correlation rho after the
    delay, was estimated as :math:`\hat h = \sqrt{1 - e}\, h + \sqrt{e}\, n`. Then

    .. math:: \bar h = m + c\,(\hat h - \sqrt{1 - e}\, m), \quad c = \frac{\rho \sqrt{1 - e}\, v}{(1 - e)\, v + e g}

    misses :math:`h` by a variance of :math:`v\,(1 - \rho \sqrt{1 - e}\, c)`, whatever the direction of a beam. At full
    power that is noise: of its own channel at a downlink user, of self-interference at the base station. Channels are
    normalised by the sum of all noise. Between users powers alone matter, and those are conditional means. Uplink
    channels stay as they were estimated, since combiners follow the true ones.

    :param cells: the cell
    :param delay: slots from an estimate to its use
    """

    def __init__(self, cells: Cells, delay: int):
        c = cells.config
        self.cells, self.correlation, self.error = cells, cells.correlation**delay, c.csi_error
        self.fading = _fading_share(c.rician), _fading_share(c.self_interference_rician)

    def __call__(self, state: CellState) -> ChannelState:
        """Channels to plan with from the estimates of B cells."""
        seen, gains, constant = state.estimate, state.gains, self.cells.line_of_sight(state)
        of_users, of_interference = self.fading
        downlink, missed = self._mean(seen.downlink, constant.downlink, gains.downlink.unsqueeze(-1), of_users)
        cross, spread = self._mean(seen.cross, constant.cross, gains.cross, 1.0)
        interference, leaked = self._mean(
            seen.self_interference, constant.self_interference, gains.self_interference[:, None, None], of_interference
        )
        at_users, at_station = (1 + missed).rsqrt(), (1 + leaked).rsqrt()
        cross = (squared_magnitude(cross) + spread).sqrt() * at_users.mT
        return ChannelState(
            downlink * at_users, seen.uplink * at_station, cross.to(seen.cross.dtype), interference * at_station
        )

    @property
    def correlations(self) -> dict[str, float]:
        """Of an estimate and the channel in the slot in which it is used, by kind; both of the same mean gain."""
        of_users, of_interference = self.fading
        shares = {"downlink": of_users, "uplink": of_users, "cross": 1.0, "self_interference": of_interference}
        kept = (1 - self.error) ** 0.5
        return {name: kept * (1 - share * (1 - self.correlation)) for name, share in shares.items()}

    def _mean(self, estimate: Tensor, constant: Tensor, gain: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """Conditional mean of channels, and the variance of what it misses.

        :param constant: m      :param gain: g      :param share: v / g
        """
        kept = (1 - self.error) ** 0.5
        weight = self.correlation * kept * share / ((1 - self.error) * share + self.error)
        return constant + weight * (estimate - kept * constant), gain * (share * (1 - self.correlation * kept * weight))


def _fading_share(factor: float | None) -> float:
    """Of the power of a channel with Rician K in dB."""
    return 1.0 if factor is None else 1 / (1 + 10 ** (factor / 10))
