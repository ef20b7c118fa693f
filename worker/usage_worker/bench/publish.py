"""The sender of the product's path: an application process with a `UsagePublisher`."""

from __future__ import annotations

import gc
import sys
import time
from statistics import quantiles
from typing import Any

from usage_worker.bench.load import Load
from usage_worker.bench.sender import DONE, report, wait_for_go
from usage_worker.publisher import UsagePublisher
from usage_worker.settings import load_settings

# Sleep and flush this often (in events): well below what the publisher's buffer holds.
PACE_EVERY = 100
FLUSH_EVERY = 20_000


def main(load: Load) -> None:
    """Prepare the events, then publish them at the load's rate."""
    events = list(load.generate())
    gc.freeze()  # an application does not keep a million events for the garbage collector to traverse
    with UsagePublisher(settings=load_settings(), disabled=False) as publisher:
        wait_for_go()
        figures = _publish_paced(publisher, events, load.rate) if load.rate else _publish(publisher, events)
        publisher.flush(60)
        report(" ".join([DONE, *figures]) if publisher.stats().sent == load.events else publisher.stats())


def _publish(publisher: UsagePublisher, events: list[dict[str, Any]]) -> list[str]:
    for number, event in enumerate(events, start=1):
        publisher.track(**event)
        if number % FLUSH_EVERY == 0:
            publisher.flush(60)
    return []


def _publish_paced(publisher: UsagePublisher, events: list[dict[str, Any]], rate: float) -> list[str]:
    """Return the median and the 99th percentile of the calls of `track`, in microseconds."""
    calls = []
    started = time.monotonic()
    for number, event in enumerate(events, start=1):
        before = time.perf_counter_ns()
        publisher.track(**event)
        calls.append(time.perf_counter_ns() - before)
        if number % PACE_EVERY == 0:
            time.sleep(max(0.0, started + number / rate - time.monotonic()))
    percentiles = quantiles(calls, n=100)
    return [f"{percentiles[place] / 1000:.3f}" for place in (49, 98)]


if __name__ == "__main__":
    main(Load.from_arguments(sys.argv[1:]))
