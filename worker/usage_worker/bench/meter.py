"""CPU time and memory of a process and its descendants, from /proc (see proc_pid_stat(5))."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(root: int) -> float:
    """Return the user and system time of a process and its descendants, ended and awaited ones included."""
    total = 0.0
    for text in _read_all(root, "stat"):
        fields = text.rpartition(")")[2].split()
        # utime, stime, cutime and cstime are fields 14 to 17; the first after the name is field 3.
        total += sum(int(field) for field in fields[11:15]) / _TICKS
    return total


def resident_bytes(root: int) -> list[int]:
    """Return the resident memory of a process and of each of its descendants."""
    return [int(text.split()[1]) * _PAGE for text in _read_all(root, "statm")]


def _read_all(root: int, name: str) -> Iterator[str]:
    """Read a file of /proc for a process and its descendants, without those that end meanwhile."""
    for pid in _descendants(root):
        try:
            yield Path(f"/proc/{pid}/{name}").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue


def _descendants(root: int) -> list[int]:
    """Return the process itself and all processes below it."""
    found = [root]
    for pid in found:
        try:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
