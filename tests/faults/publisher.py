"""One publisher process of the fault tests: `python -m tests.faults.publisher FILE EVENTS SEED`.

It publishes the traffic of the demo: at least so many events, and more until its standard input ends, so that no fault
comes after the load on a slow machine.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path
from select import select
from typing import TYPE_CHECKING, Any

from usage_worker.demo.publish import publish, traffic

if TYPE_CHECKING:
    from collections.abc import Iterator

FURTHER = 100  # events between two looks at the standard input
# The seeds of the processes of a test are close to each other.
NEXT_SEED = 1_000_003


def lasting_traffic(least: int, seed: int) -> Iterator[dict[str, Any]]:
    yield from traffic(least, seed)
    for further in count(seed + NEXT_SEED, NEXT_SEED):
        # Nobody writes to it, so what can be read is its end.
        if select([sys.stdin], [], [], 0)[0]:
            return
        yield from traffic(FURTHER, further)


if __name__ == "__main__":
    sys.exit(publish(Path(sys.argv[1]), lasting_traffic(int(sys.argv[2]), int(sys.argv[3]))))
