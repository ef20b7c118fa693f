"""One publisher process of the demo: `python -m usage_worker.demo.publish FILE EVENTS SEED [--at-once]`.

It writes each event to a file of NDJSON before it hands it to the publisher. The oracle reads that file, so that the
expected counters do not depend on the publisher, the queue or ingest.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, uuid5

from uuid_utils.compat import uuid7

from usage_worker.publisher import UsagePublisher
from usage_worker.settings import load_settings
from usage_worker.testing import Population, generate_usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

USERS, AGENTS = 200, 10
UNKNOWN_USER = uuid5(NAMESPACE_OID, "nobody")
"""A user who does not exist; events that name it must be quarantined."""

EVENTS_PER_SECOND = 1_500
AT_ONCE = "--at-once"
# Flush this often (in events) without a pace: well below what the publisher's buffer holds.
FLUSH_EVERY = 20_000
# Shares of all events.
DUPLICATES = 0.02
RATINGS = 0.01
UNKNOWN_USER_EVENTS = 0.001


def traffic(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Generate complete events: mostly usage, some ratings, a few of a user who does not exist, some duplicates.

    `count` is their number without the duplicates.
    """
    random = Random(seed)  # noqa: S311
    for fields in generate_usage(Population.of(USERS, AGENTS), count, "production", seed):
        event = fields | {"event_id": uuid7(), "occurred_at": datetime.now(UTC)}
        draw = random.random()
        if draw < RATINGS:
            kept = {key: event[key] for key in ("event_id", "occurred_at", "user_id", "agent_id")}
            event = kept | {"type": "rating", "rating": str(random.randint(1, 5))}
        elif draw < RATINGS + UNKNOWN_USER_EVENTS:
            event["user_id"] = UNKNOWN_USER
        elif draw < RATINGS + UNKNOWN_USER_EVENTS + DUPLICATES:
            yield dict(event)
        yield event


def publish(file: Path, events: Iterable[dict[str, Any]], *, at_once: bool = False) -> int:
    """Publish the events; return the exit code, 1 if not all of them were sent.

    Paced like an application, unless `at_once`: a burst would measure the backlog instead of the latency.
    """
    started, published = time.monotonic(), 0
    with file.open("w") as lines, UsagePublisher(settings=load_settings(), disabled=False) as publisher:
        for event in events:
            lines.write(json.dumps(event, default=str) + "\n")
            publisher.add(event)
            published += 1
            if at_once and published % FLUSH_EVERY == 0:
                publisher.flush(30)
            elif not at_once and published % 50 == 0:
                time.sleep(max(0.0, started + published / EVENTS_PER_SECOND - time.monotonic()))
        lines.flush()
        flushed = publisher.flush(30)
        stats = publisher.stats()
    sys.stdout.write(json.dumps({"sent": stats.sent, "dropped": stats.dropped, "refused": stats.refused}) + "\n")
    return 0 if flushed and stats.sent == published else 1


if __name__ == "__main__":
    sys.exit(publish(Path(sys.argv[1]), traffic(int(sys.argv[2]), int(sys.argv[3])), at_once=AT_ONCE in sys.argv[4:]))
