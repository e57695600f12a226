"""Modulation and coding schemes: which one a link can bear, what it carries, and how often a block is lost."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from d2rl.common.errors import InputError
from d2rl.common.tensor_struct import TensorStruct

# 3GPP TS 38.214, table 5.1.3.1-1: bits of a symbol, and the code rates x 1024 that go with them
STANDARD = {
    2: (120, 157, 193, 251, 308, 379, 449, 526, 602, 679),
    4: (340, 378, 434, 490, 553, 616, 658),
    6: (438, 466, 517, 567, 616, 666, 719, 772, 822, 873, 910, 948),
}
GAP_DB = 4.1  # to Shannon, where every second block is lost; see the curves named at McsTable
SLOPE = 11.0  # of the log odds of a loss, per dB
FALL = 0.01  # of the efficiency, where the modulation changes; the standard's own MCS 17 lies 0.15 % below MCS 16
COLUMNS = ("order", "code_rate")
MOST_BITS = 12  # of a symbol


@dataclass(frozen=True)
class McsTable(TensorStruct):
    r"""Schemes in the order of what they carry, with a block error rate that is logistic in dB.

    .. math:: \mathrm{BLER}_i(\gamma) = \frac{1}{1 + e^{s (10 \log_{10} \gamma - \theta_i)}}, \quad
        \theta_i = 10 \log_{10}(2^{\eta_i} - 1) + \Delta

    with the efficiency eta, the gap to Shannon Delta = 4.1 dB and the slope s = 11 per dB. That is how the curves of
    5G-LENA (ns-3, link simulations of TS 38.212 LDPC codes, 8,192 bits) lie for MCS 4 to 27 of the standard's table:
    thresholds 3.6 to 4.6 dB above Shannon, slopes 5 to 14 per dB.

    :param efficiency: [N], bit/s/Hz
    :param threshold: [N], theta, dB
    """

    efficiency: Tensor
    threshold: Tensor

    @classmethod
    def standard(cls) -> McsTable:
        """The 29 schemes of 3GPP TS 38.214, table 5.1.3.1-1: QPSK to 64QAM, 0.23 to 5.55 bit/s/Hz."""
        return cls.of([order * rate / 1024 for order, rates in STANDARD.items() for rate in rates])

    @classmethod
    def of(cls, efficiency: list[float], threshold: list[float] | None = None) -> McsTable:
        """The table of efficiencies, and of thresholds where they are known."""
        if threshold is None:
            threshold = [10 * math.log10(2**one - 1) + GAP_DB for one in efficiency]
        return cls(torch.tensor(efficiency), torch.tensor(threshold))

    @classmethod
    def load(cls, path: str | Path) -> McsTable:
        """A table of the reader's own: a CSV file with the columns ``order`` (bits of a symbol), ``code_rate`` (0 to
        1), and if wanted ``threshold_db`` (SINR at which every second block is lost).

        :raises InputError: names the file, the row and the remedy
        """
        rows = _read(Path(path))
        efficiency = [row["order"] * row["code_rate"] for row in rows]
        threshold = [row["threshold_db"] for row in rows] if "threshold_db" in rows[0] else None
        for n in range(1, len(rows)):
            least = efficiency[n - 1] * (1 - FALL if rows[n]["order"] > rows[n - 1]["order"] else 1)
            if rows[n]["order"] < rows[n - 1]["order"] or efficiency[n] < least or rows[n] == rows[n - 1]:
                raise InputError(
                    f"{path}: scheme {n} carries {efficiency[n]:.4g} bit/s/Hz and scheme {n - 1} before it "
                    f"{efficiency[n - 1]:.4g}; put them in rising order of modulation and efficiency."
                )
            if threshold is not None and threshold[n] <= threshold[n - 1]:
                raise InputError(
                    f"{path}: scheme {n} carries more than scheme {n - 1} and would need less: threshold_db "
                    f"{threshold[n]:g} after {threshold[n - 1]:g}; thresholds must rise."
                )
        return cls.of(efficiency, threshold)

    def error_rate(self, sinr: Tensor, scheme: Tensor) -> Tensor:
        """Share of blocks that are lost; 1 where nothing is sent.

        :param sinr: any shape, a ratio
        :param scheme: its shape, int64; -1 sends nothing
        """
        margin = _decibel(sinr) - self.threshold[scheme.clamp_min(0)]
        return torch.where(scheme < 0, 1.0, torch.sigmoid(-SLOPE * margin))

    def choose(self, sinr: Tensor, target: float = 0.1) -> Tensor:
        """The highest scheme that loses at most ``target`` of its blocks, int64; -1 where even the lowest loses more.

        :param sinr: any shape, a ratio, as the base station knows it
        """
        needed = self.threshold + math.log((1 - target) / target) / SLOPE
        numbers = torch.arange(1, len(needed) + 1, device=sinr.device)
        return (numbers * (_decibel(sinr).unsqueeze(-1) >= needed)).amax(-1) - 1

    def carried(self, scheme: Tensor) -> Tensor:
        """bit/s/Hz of a scheme whose blocks all arrive; 0 where nothing is sent.

        :param scheme: any shape, int64; -1 sends nothing
        """
        return torch.where(scheme < 0, 0.0, self.efficiency[scheme.clamp_min(0)])

    def goodput(self, sinr: Tensor, scheme: Tensor) -> Tensor:
        """bit/s/Hz that arrive on average.

        :param sinr: the true one, any shape, a ratio
        :param scheme: its shape, int64; -1 sends nothing
        """
        return self.carried(scheme) * (1 - self.error_rate(sinr, scheme))

    def acknowledged(self, sinr: Tensor, scheme: Tensor, generator: torch.Generator) -> Tensor:
        """Whether a block arrives (ACK), bool; drawn.

        :param sinr: the true one, any shape, a ratio
        :param scheme: its shape, int64; -1 sends nothing
        """
        draw = torch.rand(sinr.shape, generator=generator, device=sinr.device)
        return draw >= self.error_rate(sinr, scheme)


def sinr_of(rates: Tensor) -> Tensor:
    """The SINR behind Shannon rates, a ratio.

    :param rates: any shape, bit/s/Hz
    """
    return torch.expm1(rates * math.log(2))


def _decibel(ratio: Tensor) -> Tensor:
    return 10 * ratio.clamp_min(1e-30).log10()


def _read(path: Path) -> list[dict[str, float]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            names = [name.strip() for name in table.fieldnames or ()]
            lines = list(table)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give the path of a table of schemes.") from None
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{path} is no CSV file; a table of schemes has the columns {', '.join(COLUMNS)}.") from None
    if set(names) not in ({*COLUMNS}, {*COLUMNS, "threshold_db"}):
        raise InputError(
            f"{path} has the columns {', '.join(names) or 'none'}; a table of schemes has {', '.join(COLUMNS)}, and if "
            "wanted threshold_db."
        )
    if not lines:
        raise InputError(f"{path} has no scheme; give one row for each.")
    return [_row(path, number, line) for number, line in enumerate(lines)]


def _row(path: Path, number: int, line: dict[str, str]) -> dict[str, float]:
    try:
        row = {name.strip(): float(value) for name, value in line.items()}
        sound = all(map(math.isfinite, row.values()))
    except (AttributeError, TypeError, ValueError):
        sound = False
    if not sound:
        raise InputError(f"{path}: scheme {number} holds what is no number: {', '.join(map(str, line.values()))}.")
    if row["order"] not in range(1, MOST_BITS + 1):
        raise InputError(f"{path}: scheme {number} has order {row['order']:g}, bits of a symbol, 1 to {MOST_BITS}.")
    if not 0 < row["code_rate"] <= 1:
        raise InputError(
            f"{path}: scheme {number} has code_rate {row['code_rate']:g}, which lies above 0 and is at most 1 (the "
            "standard's numbers over 1024)."
        )
    return row
