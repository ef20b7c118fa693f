"""One publisher process of the demo: `python -m usage_worker.demo.publish JOURNAL EVENTS SEED`.

It writes down what the application meant before it hands it to the publisher; the oracle reads that journal, so that
the comparison at the end shares nothing with the way that the events took.
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
from usage_worker.testing.workload import Population, usage

if TYPE_CHECKING:
    from collections.abc import Iterator

USERS, AGENTS = 200, 10
EVENTS_PER_SECOND = 1_500
DUPLICATES = 0.02
RATINGS = 0.01
UNKNOWN_USER_EVENTS = 0.001


def traffic(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Complete events: mostly use, some ratings, some sent twice, a few of a user that does not exist."""
    random = Random(seed)  # noqa: S311
    for fields in usage(Population.of(USERS, AGENTS), count, "production", seed):
        event = fields | {"event_id": uuid7(), "occurred_at": datetime.now(UTC)}
        draw = random.random()
        if draw < RATINGS:
            kept = {key: event[key] for key in ("event_id", "occurred_at", "user_id", "agent_id")}
            event = kept | {"type": "rating", "rating": str(random.randint(1, 5))}
        elif draw < RATINGS + UNKNOWN_USER_EVENTS:
            event["user_id"] = uuid5(NAMESPACE_OID, "nobody")
        elif draw < RATINGS + UNKNOWN_USER_EVENTS + DUPLICATES:
            yield dict(event)
        yield event


def main(journal: Path, count: int, seed: int) -> int:
    started, sent = time.monotonic(), 0
    with journal.open("w") as lines, UsagePublisher() as publisher:
        for event in traffic(count, seed):
            lines.write(json.dumps(event, default=str) + "\n")
            publisher.add(event)
            sent += 1
            if sent % 50 == 0:
                # Applications publish all day long; a burst would measure the backlog and not the way through.
                time.sleep(max(0.0, started + sent / EVENTS_PER_SECOND - time.monotonic()))
        lines.flush()
        arrived = publisher.flush(30)
        stats = publisher.stats()
    sys.stdout.write(json.dumps({"sent": stats.sent, "dropped": stats.dropped, "refused": stats.refused}) + "\n")
    return 0 if arrived and stats.sent == sent else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
