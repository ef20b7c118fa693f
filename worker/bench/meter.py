"""CPU time and memory of processes and their children, from /proc (see proc_pid_stat(5))."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(root: int) -> float:
    """User and system time of a process and all its descendants, those that have ended and were waited for included."""
    total = 0.0
    for pid in _family(root):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # utime, stime, cutime and cstime are fields 14 to 17; the first after the name is field 3.
        total += sum(int(field) for field in fields[11:15]) / _TICKS
    return total


def resident_bytes(root: int) -> list[int]:
    """The resident memory of a process and of each of its descendants."""
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in _family(root)]
    return [count * os.sysconf("SC_PAGE_SIZE") for count in pages]


def _family(root: int) -> list[int]:
    found = [root]
    for pid in found:
        try:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
