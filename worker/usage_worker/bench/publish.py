"""The sender of the product's path: an application process with a `UsagePublisher`."""

from __future__ import annotations

import gc
import sys
import time

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
        started = time.monotonic()
        for number, event in enumerate(events, start=1):
            publisher.track(**event)
            if load.rate and number % PACE_EVERY == 0:
                time.sleep(max(0.0, started + number / load.rate - time.monotonic()))
            elif number % FLUSH_EVERY == 0:
                publisher.flush(60)
        publisher.flush(60)
        report(DONE if publisher.stats().sent == load.events else publisher.stats())


if __name__ == "__main__":
    main(Load.from_arguments(sys.argv[1:]))
