"""What can go wrong with a benchmark as a whole."""

from __future__ import annotations

from d2rl.common.errors import UserError


class BenchmarkError(UserError):
    """Cells that failed; the message names them and says how to go on."""

    kind = "benchmark"
