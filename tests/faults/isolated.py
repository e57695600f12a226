"""Runs a command where there is no network but this machine itself, and tells how often it tried to get out.

    unshare --net python tests/faults/isolated.py COMMAND ...

The kernel counts what has no route. The last line is ``status S, attempts N``.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import subprocess
import sys
from pathlib import Path

SIOCSIFFLAGS, UP_AND_RUNNING = 0x8914, 0x41


def loopback() -> None:
    """Switch on what a new network namespace has switched off."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", UP_AND_RUNNING))


def attempts() -> int:
    """Packets without a route, so far."""
    names, values = (line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Ip:"))
    return int(values[names.index("OutNoRoutes")])


if __name__ == "__main__":
    loopback()
    status = subprocess.run(sys.argv[1:]).returncode
    print(f"status {status}, attempts {attempts()}")
