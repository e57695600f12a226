"""``python -m d2rl.benchmark``; see :mod:`d2rl.benchmark.command`."""

from d2rl.benchmark.command import benchmark_command
from d2rl.benchmark.matrix import BenchmarkConfig
from d2rl.common.command_line import run

if __name__ == "__main__":
    run(benchmark_command, BenchmarkConfig)
