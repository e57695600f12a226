"""A training as people run it, with the band in which it must end: learning cannot get worse unnoticed."""

from __future__ import annotations

import pytest
from conftest import read_csv

from d2rl.config.load import load
from d2rl.runs.run_directory import RunDirectory
from d2rl.training.train import train

PLAN = (
    *("conf=full_duplex", "seed=0", "trainer.epochs=5", "trainer.updates_per_epoch=30", "stages.state=4"),
    *("trainer.accelerator=cpu", "trainer.progress=false", "logger.mode=disabled"),
)
LEVEL, SPEED = 0.82, 0.79


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_150_updates_close_as_much_of_the_gap_as_they_did(tmp_path):
    """Gap closed on 256 drops, evaluated every 10 updates: at the end, and on average over the 15 evaluations.

    Measured with this plan and seeds 0 to 9 on one thread of an x86-64 processor with AVX-512: 0.837 to 0.876 at the
    end (mean 0.862, standard deviation 0.012) and 0.810 to 0.840 on average (0.822, 0.009). Other kernels make other
    runs of a seed, as if it were another one: with ``ATEN_CPU_CAPABILITY=default`` seeds 0 to 4 gave 0.838 to 0.878
    and 0.802 to 0.829. The limits are three standard deviations below the means.
    """
    config = load([*PLAN, f"run_dir={tmp_path / 'run'}"])
    run = RunDirectory.create(config, "test")
    train(config, run)
    gaps = [float(row["eval/gap_closed"]) for row in read_csv(run.metrics) if row["eval/gap_closed"]]
    assert len(gaps) == 15
    assert gaps[-1] > LEVEL
    assert sum(gaps) / 15 > SPEED
