"""Mutation tests of the physics: each of these mistakes must be caught by the suite.

    python tests/faults/mutants.py [WORD ...]

Puts one mistake after the other into a copy of the package and runs the tests of that part there, until one fails.
With words only the mutants whose name holds one. Prints a table; exit status 1 if a mutant survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS = 600  # that the tests of a mutant may take
POWERS, SHAPED = "wireless/link_powers.py", "wireless/shaped_beams.py"
RATES, HEADS, WMMSE = "wireless/link_rates.py", "wireless/heads.py", "wireless/wmmse.py"
PRECODERS, PROPAGATION, FADING = "wireless/precoders.py", "wireless/propagation.py", "wireless/fading.py"
BOUNDS, REWARD, NUMBERS = "wireless/bounds.py", "algorithm/rewards.py", "algorithm/networks/actions.py"
ACTION, BASE = "algorithm/networks/action_chain.py", "problems/base.py"
PRICED, ASCENT = "wireless/priced_step.py", "algorithm/ascent.py"
CELL, ENV = "problems/full_duplex/simulator.py", "problems/full_duplex/env.py"
PROBLEM, BANK = "problems/full_duplex/problem.py", "problems/full_duplex/scenario_bank.py"
SIMULATOR, VIEWS = "tests/problems/full_duplex/test_simulator.py", "tests/problems/full_duplex/test_views.py"
TESTS = {  # of a part; the first file that fails ends a mutant
    RATES: "tests/wireless/test_link_rates.py tests/wireless/test_whitened.py",
    POWERS: "tests/wireless/test_link_rates.py tests/wireless/test_channel_levels.py",
    HEADS: "tests/wireless/test_heads.py",
    SHAPED: "tests/wireless/test_shaped_beams.py tests/wireless/test_heads.py",
    WMMSE: "tests/wireless/test_wmmse.py",
    PRECODERS: "tests/wireless/test_precoders.py",
    PROPAGATION: "tests/wireless/test_propagation.py",
    FADING: "tests/wireless/test_fading.py",
    CELL: SIMULATOR,
    ENV: SIMULATOR,
    PROBLEM: f"{SIMULATOR} {VIEWS}",
    BANK: SIMULATOR,
    BOUNDS: "tests/wireless/test_bounds.py",
    REWARD: "tests/algorithm/test_rewards.py",
    NUMBERS: VIEWS,
    BASE: "tests/problems/test_base.py",
    PRICED: "tests/wireless/test_convergence.py",
    ASCENT: "tests/algorithm/test_ascent.py",
    ACTION: "tests/algorithm/explorers/test_action.py",
}


@dataclass(frozen=True)
class Mutant:
    """One mistake: ``right`` stands once in ``file`` and becomes ``wrong``."""

    name: str
    file: str
    right: str
    wrong: str

    def apply(self, package: Path) -> None:
        """Put it into a copy of the package. :raises ValueError: its place is not there, or there twice"""
        path = package / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.right) != 1:
            raise ValueError(f"{self.name}: {self.right!r} stands {text.count(self.right)} times in {self.file}")
        path.write_text(text.replace(self.right, self.wrong), encoding="utf-8")


DISTURBANCE = "others.sum(-1) + cross + 1"
COVARIANCE = "_factor(leakage @ leakage.mH)"
OWN_POWER = "(within(uplink_power.double(), low=0) + FAINT_POWER).sqrt()"
UNIT = "direction = shape / norm\n        ctx.save_for_backward"
NO_UNIT = UNIT.replace(" / norm", "")
# fmt: off
MUTANTS = (
    # the SINR
    Mutant("no interference between downlink users", RATES, DISTURBANCE, "cross + 1"),
    Mutant("no interference from uplink users", RATES, DISTURBANCE, "others.sum(-1) + 1"),
    Mutant("no noise at the users", RATES, DISTURBANCE, "others.sum(-1) + cross"),
    Mutant("a user disturbed by its own signal", RATES, DISTURBANCE, "received.sum(-1) + cross + 1"),
    Mutant("g_j^T w instead of g_j^H w", RATES, "channels.downlink.conj() @ precoder", "channels.downlink @ precoder"),
    Mutant(
        "square of the uplink power", RATES, "(uplink_power.unsqueeze(-2) @",
        "(uplink_power.square().unsqueeze(-2) @",
    ),
    Mutant("no self-interference", RATES, COVARIANCE, "_factor(0 * leakage @ leakage.mH)"),
    Mutant(
        "a tenth of the noise at the base station", RATES, COVARIANCE,
        "(_factor(10 * leakage @ leakage.mH) / 10**0.5)",
    ),
    Mutant(
        "conjugate of H_S", RATES, "channels.self_interference.to(torch.complex128) @ precoder",
        "(channels.self_interference.conj() @ precoder)",
    ),
    Mutant("half of the self-interference", RATES, COVARIANCE, "_factor(0.5 * leakage @ leakage.mH)"),
    Mutant("the same of far fewer beams", RATES, "_factor(leakage.mH @", "_factor(0.5 * leakage.mH @"),
    Mutant(
        "no interference between uplink users", RATES, "factor = _factor(white.mH @ white)",
        "factor = _factor(torch.diag_embed((white.mH @ white).diagonal(dim1=-2, dim2=-1)))",
    ),
    Mutant("power instead of amplitude of the uplink", RATES, OWN_POWER, OWN_POWER.removesuffix(".sqrt()")),
    Mutant("MMSE combiner without its own power", RATES, OWN_POWER, "torch.ones_like(uplink_power).double()"),
    Mutant("natural logarithm, downlink", RATES, "torch.log2(1 + downlink_sinr", "torch.log(1 + downlink_sinr"),
    Mutant("natural logarithm, uplink", RATES, "-torch.log2(uplink_error", "-torch.log(uplink_error"),
    Mutant(
        "uplink before downlink", RATES, "torch.cat([downlink, uplink], dim=-1)",
        "torch.cat([uplink, downlink], dim=-1)",
    ),
    Mutant("uplink signal at full power", POWERS, "sent = (power.clamp_min(0) * gain)", "sent = gain"),
    Mutant(
        "uplink disturbance over the error", POWERS, "(half.conj() * (half @ gram))", "(half.conj() * half)",
    ),
    Mutant("uplink disturbance below the noise", POWERS, "lost.clamp_min(1).to(wanted.dtype)", "lost.to(wanted.dtype)"),
    Mutant("uplink disturbance of a silent user 0 / 0", POWERS, ".clamp_min(0) + HEARD_POWER", ".clamp_min(0)"),
    # what critics see, and the estimates of the action explorer
    Mutant("interference with the noise in it", PROBLEM, "[signal + 1, disturbance]", "[signal + 1, disturbance + 1]"),
    Mutant("numbers of both directions alike", NUMBERS, "numbers * (kinds == kind)", "numbers * (kinds == 0)"),
    Mutant("estimate of the step before", ACTION, "stop=step)", "stop=step - 1)"),
    # layouts of actions
    Mutant("every entity of the last kind", BASE, "(index >= boundary)", "(index >= 0)"),
    Mutant("flat numbers with their padding", BASE, "part[..., :own].flatten(-2)", "part.flatten(-2)"),
    # action heads
    Mutant("power shares not normalised", HEADS, "torch.softmax(self.share_range", "torch.sigmoid(self.share_range"),
    Mutant(
        "power share as amplitude", HEADS, "(share.double() + FAINT_POWER).sqrt()", "(share.double() + FAINT_POWER)"
    ),
    Mutant("beams without unit norm", SHAPED, f"{UNIT}(basis, strength", f"{NO_UNIT}(basis, strength"),
    Mutant("beams by links without unit norm", SHAPED, f"{UNIT}(basis, root", f"{NO_UNIT}(basis, root"),
    Mutant("settled for other priorities", HEADS, "amplitude, priority)", "amplitude, torch.ones_like(priority))"),
    Mutant("a priced step in which power costs nobody", PRICED, "at.costs.split", "(0 * at.costs).split"),
    Mutant("a wish for the foot of the hill", ASCENT, "* slope.sign()", "* -slope.sign()"),
    Mutant("no power ball", HEADS, "return precoder / norm, (power", "return precoder, (power"),
    Mutant("uplink power up to 2", HEADS, "(power.squeeze(-1) + 1) / 2", "(power.squeeze(-1) + 1)"),
    Mutant(
        "H_S^T instead of H_S^H", HEADS, "channels.self_interference.mH @ combiners",
        "channels.self_interference.mT @ combiners",
    ),
    # WMMSE
    Mutant(
        "WMMSE without noise", WMMSE, "total = signal + disturbance",
        "disturbance = disturbance - 1 + 1e-3; total = signal + disturbance",
    ),
    Mutant(
        "WMMSE receiver without its own power", WMMSE, "u = own / total",
        "u = own / (total - squared_magnitude(own))",
    ),
    Mutant(
        "WMMSE without the weight of the error", WMMSE, "a = priority_down * total / disturbance",
        "a = priority_down * torch.ones_like(total)",
    ),
    Mutant("WMMSE precoder blind to self-interference", WMMSE, "torch.cat([price, b]", "torch.cat([price, 0 * b]"),
    Mutant(
        "WMMSE uplink blind to the downlink users", WMMSE, "at.costs[..., channels.downlink_users :]",
        "(at.b.unsqueeze(-1) * squared_magnitude(at.v.mH @ channels.uplink.mT)).sum(-2)",
    ),
    Mutant(
        "WMMSE covariance without self-interference", WMMSE, "add_noise(arriving @ arriving.mH)",
        "add_noise(streams @ streams.mH)",
    ),
    Mutant(
        "WMMSE precoder of twice the power", WMMSE, "return precoder / norm.clamp_min(1)",
        "return precoder / norm.clamp_min(1) * 2**0.5",
    ),
    Mutant(
        "WMMSE uplink power without limit", WMMSE, ".clamp(0, 1)\n    return next_precoder",
        ".clamp_min(0)\n    return next_precoder",
    ),
    Mutant("WMMSE blind to uplink priorities", WMMSE, "b = priority_up /", "b = torch.ones_like(priority_up) /"),
    Mutant("WMMSE picks the worst start", WMMSE, ".argmax(-1)", ".argmin(-1)"),
    # precoders and bound
    Mutant("RZF with the regularisation of one user", PRECODERS, ", channels.downlink_users))", ", 1))"),
    Mutant("every user at full power", PRECODERS, " / beams.shape[-1] ** 0.5", ""),
    Mutant(
        "ZF of the conjugate", PRECODERS, "channels.downlink.to(torch.complex128).conj()",
        "channels.downlink.to(torch.complex128)",
    ),
    Mutant("MRT of the conjugate", PRECODERS, "equal_power(channels.downlink.mT)", "equal_power(channels.downlink.mH)"),
    Mutant(
        "bound without the power limit", BOUNDS, "weights * (levels.gather(-1, used - 1) - depth).clamp_min(0)",
        "torch.ones_like(depth)",
    ),
    # propagation and fading
    Mutant("path loss as a gain", PROPAGATION, "return -(intercept", "return (intercept"),
    Mutant("distance in metres", PROPAGATION, "torch.log10(distance / 1000)", "torch.log10(distance)"),
    Mutant("no noise figure", PROPAGATION, " + noise_figure", ""),
    Mutant("bandwidth in MHz", PROPAGATION, "math.log10(bandwidth * 1e6)", "math.log10(bandwidth)"),
    Mutant(
        "uplink at the power of the base station", PROPAGATION, "uplink=from_db(self.user_power",
        "uplink=from_db(self.bs_power",
    ),
    Mutant(
        "self-interference independent of P_BS", PROPAGATION, "self.bs_power + self.self_interference",
        "self.self_interference",
    ),
    Mutant(
        "self-interference over the users' noise", PROPAGATION, "self.self_interference - self.noise_uplink",
        "self.self_interference - self.noise_downlink",
    ),
    Mutant("amplitude dB", PROPAGATION, "10 ** (decibel / 10)", "10 ** (decibel / 20)"),
    Mutant(
        "users uniform in distance", PROPAGATION, "(minimum**2 + (radius**2 - minimum**2) * draw[..., 0]).sqrt()",
        "minimum + (radius - minimum) * draw[..., 0]",
    ),
    Mutant("innovation without its root", FADING, "math.sqrt(max(0.0, 1 - correlation**2))", "(1 - correlation**2)"),
    Mutant("Doppler without 2 pi", FADING, "2 * math.pi * doppler * slot", "doppler * slot"),
    Mutant("estimate of more power than the channel", FADING, "math.sqrt(1 - error) * true", "true"),
    Mutant("line of sight on top of the scattering", FADING, "math.sqrt(1 / (k + 1)) * scattered", "scattered"),
    # the cell
    Mutant("km/h as m/s", CELL, "config.speed / 3.6", "config.speed"),
    Mutant(
        "noise figures swapped", BANK, "config.noise_density, config.noise_figure_downlink)",
        "config.noise_density, config.noise_figure_uplink)",
    ),
    Mutant(
        "rates of the estimate", PROBLEM, "return rates_of(state.channels, *decision)",
        "return rates_of(state.estimate, *decision)",
    ),
    Mutant(
        "decisions on the truth", ENV, "decided_rates(self.head, state.channels, several, state.estimate)",
        "decided_rates(self.head, state.channels, several)",
    ),
    Mutant("features of the truth", PROBLEM, "**state.estimate.tensors(), ", "**state.channels.tensors(), "),
    Mutant(
        "a cut episode that goes on with other users", CELL,
        "return state.with_rows(ended, self._measured(moved[ended], generator)), state, truncated",
        "return state, state, truncated",
    ),
    Mutant(
        "designed reward without its reference", REWARD, "return utility - observation.baseline.unsqueeze(1)",
        "return utility + 0 * observation.baseline.unsqueeze(1)",
    ),
)
# fmt: on


def copy(place: Path) -> Path:
    """What the tests need, in ``place``."""
    for name in ("d2rl", "tests", "conf"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
    shutil.copy(ROOT / "pyproject.toml", place)
    return place


def passes(place: Path, tests: Iterable[str]) -> bool:
    """Whether the tests pass in a copy. :raises RuntimeError: they cannot be run"""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        **{"cwd": place, "capture_output": True, "text": True, "timeout": SECONDS},
        env={**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return done.returncode == 0


def main(words: list[str]) -> int:
    """Judge the mutants whose name holds one of the words, or all."""
    chosen = [one for one in MUTANTS if not words or any(word in one.name for word in words)]
    with tempfile.TemporaryDirectory() as place:
        if not passes(copy(Path(place)), sorted({file for one in chosen for file in TESTS[one.file].split()})):
            print("the suite fails without any mutant")
            return 1
    survivors = 0
    print("| mutant | file | outcome | seconds |\n|---|---|---|---|")
    for one in chosen:
        with tempfile.TemporaryDirectory() as place:
            one.apply(copy(Path(place)) / "d2rl")
            begin = time.monotonic()
            survived = passes(Path(place), TESTS[one.file].split())
        survivors += survived
        outcome = "**survived**" if survived else "caught"
        print(f"| {one.name} | `{one.file}` | {outcome} | {time.monotonic() - begin:.0f} |", flush=True)
    print(f"\n{len(chosen)} mutants, {survivors} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
