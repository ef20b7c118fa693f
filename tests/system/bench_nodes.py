"""What more nodes bring at the same number of processes: `python -m tests.system.bench_nodes [EVENTS]`.

Counts the same backlog with one, two and four workers that have four processes in all, on servers of its own, and
prints the events per second of each. On one machine that shows what the division costs, not what more machines bring.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

from tests.faults.harness import Harness
from tests.helpers import eventually
from tests.servers import FAST_POSTGRES, FAST_VALKEY
from tests.system.nodes import Nodes
from usage_worker.local import EmbeddedPostgres, EmbeddedValkey
from usage_worker.local.account import temporary_folder
from usage_worker.migrate import Runner
from usage_worker.publisher import UsagePublisher

if TYPE_CHECKING:
    from pathlib import Path

PROCESSES = SHARDS = 4
WARM_UP = 2_000
LIMIT = 300


def rate(folder: Path, database: str, redis_url: str, count: int, events: int) -> float:
    """Return the events per second that so many nodes count."""
    names = [f"count@node{number}" for number in range(count)]
    with (
        closing(Harness(database, redis_url, stream_shards=SHARDS)) as harness,
        Nodes(harness, folder, PROCESSES // count) as nodes,
    ):
        harness.redis.flushdb()
        harness.env = {"USAGE_LOG_LEVEL": "warning"}  # the settings of an installation, not those of the tests
        before = harness.intake.accepted
        nodes.start(*names)
        nodes.start_beat()
        nodes.ready(*names)
        send(harness, WARM_UP)
        eventually(lambda: harness.has_counted(before + WARM_UP), LIMIT)
        for name in names:
            nodes.signal(signal.SIGSTOP, name)
        send(harness, events)
        for name in names:
            nodes.signal(signal.SIGCONT, name)
        began = time.monotonic()
        eventually(lambda: harness.has_counted(before + WARM_UP + events), LIMIT)
        return events / (time.monotonic() - began)


def send(harness: Harness, events: int) -> None:
    """Publish events that the harness does not record: the totals are those of the intake."""
    with UsagePublisher(harness.redis_url) as publisher:
        for event in harness.traffic(events):
            publisher.add(event)
        assert publisher.flush(LIMIT)


def main(events: int) -> None:
    """Print a line for each number of nodes."""
    os.environ["USAGE_STREAM_SHARDS"] = str(SHARDS)
    with (
        temporary_folder() as folder,
        EmbeddedPostgres(folder / "postgres", FAST_POSTGRES) as postgres,
        EmbeddedValkey(folder / "valkey", FAST_VALKEY) as valkey,
    ):
        for count in (1, 2, 4):
            database = postgres.ensure_database(f"of_{count}_nodes")
            Runner(database).up()
            found = rate(folder, database, valkey.url(), count, events)
            sys.stdout.write(f"{count} nodes of {PROCESSES // count} processes: {found:,.0f} events/s\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
