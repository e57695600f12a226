"""Writes requirements.lock and requirements-cuda.lock from pyproject.toml: ``make lock`` after a change there.

Every package is pinned with the hashes of its files, for all systems. Libraries that only a CUDA build of torch
needs stand apart, so that a machine with a CPU build does not load gigabytes for nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CUDA = re.compile(r"(nvidia|cuda)-|triton==")
# The CPU build of torch for Python 3.11 on 64-bit Intel or AMD Linux, which PyTorch publishes outside of PyPI.
CPU_BUILD = {"torch==2.13.0": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"}


def compiled() -> str:
    """Pins and hashes of everything that ``.[dev]`` needs."""
    options = ["--extra=dev", "--constraint=constraints.txt", "--universal", "--python-version=3.11", "--quiet"]
    plain = ["--generate-hashes", "--no-header", "--no-annotate"]
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", *options, *plain]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Write both files."""
    common, cuda = [], []
    for block in re.split(r"(?m)^(?=\S)", compiled()):
        for pin, digest in CPU_BUILD.items():
            if block.startswith(pin):
                block = f"{block.rstrip()} \\\n    --hash=sha256:{digest}\n"
        (cuda if CUDA.match(block) else common).append(block)
    Path("requirements.lock").write_text("".join(common))
    Path("requirements-cuda.lock").write_text("".join(cuda))


if __name__ == "__main__":
    main()
