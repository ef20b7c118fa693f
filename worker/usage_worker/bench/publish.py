"""The publisher process of the benchmark: prepares its events, waits for the word, publishes, says "done"."""

from __future__ import annotations

import gc
import sys
import time

from usage_worker.bench.load import Load, echo, get_ready
from usage_worker.publisher import UsagePublisher

# How often the pace is kept, and Redis waited for: well below what the publisher's buffer holds.
STEP = 100
FLUSH_EVERY = 20_000


def main(load: Load) -> None:
    events = list(load.fields())
    gc.freeze()  # an application does not hold a million events that the collector has to look through
    with UsagePublisher() as publisher:
        get_ready()
        started = time.monotonic()
        for number, event in enumerate(events, start=1):
            publisher.track(**event)
            if load.rate and number % STEP == 0:
                time.sleep(max(0.0, started + number / load.rate - time.monotonic()))
            elif number % FLUSH_EVERY == 0:
                publisher.flush(60)
        publisher.flush(60)
        echo("done" if publisher.stats().sent == load.events else publisher.stats())
        sys.stdin.readline()  # the parent reads our CPU time first


if __name__ == "__main__":
    main(Load.of_arguments(sys.argv[1:]))
