"""More and fewer shards while everything runs: nothing is stopped, lost or counted twice."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.faults.harness import Harness
from tests.helpers import eventually
from tests.system.nodes import Nodes
from usage_worker.queue.processes import shards_of_workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OLD, NEW = ["old@node1", "old@node2"], ["new@node1", "new@node2"]
EVENTS = 3_000


@pytest.fixture
def harness(database: str, redis_url: str) -> Iterator[Harness]:
    """Yield a harness that looks into four shards; its processes have the number that the test gives them."""
    with closing(Harness(database, redis_url, stream_shards=4)) as harness:
        yield harness


def test_more_shards_while_running(harness: Harness, tmp_path: Path) -> None:
    """Workers first: for a while some have two shards and others four, and beat sends ticks for two."""
    with Nodes(harness, tmp_path) as nodes:
        nodes.start_beat(stream_shards=2)
        nodes.start(*OLD, stream_shards=2)
        nodes.ready(*OLD)
        with publishing(harness, tmp_path, shards=2):
            nodes.start(NEW[0], stream_shards=4)
            nodes.stop(OLD[0])
            nodes.ready(OLD[1], NEW[0])
            eventually(lambda: known_shards(harness) == 4)
            # Events of a user are in two shards now, and two workers meet at one row.
            with publishing(harness, tmp_path, shards=4):
                assert "old@node2: 2" in nodes.problems()["shards_setting"]
                nodes.start(NEW[1], stream_shards=4)
                nodes.stop(OLD[1])
                nodes.ready(*NEW)
                assert known_shards(harness) == 4
        eventually(harness.settled, 60)
        assert nodes.problems().keys().isdisjoint({"shards_setting", "foreign_shards"}), nodes.problems()
    harness.check()


def test_fewer_shards_while_running(harness: Harness, tmp_path: Path) -> None:
    """Publishers first; entries that a late publisher adds beyond the new number are counted, and named meanwhile."""
    with Nodes(harness, tmp_path) as nodes:
        nodes.start_beat(stream_shards=2)
        nodes.start(OLD[0], stream_shards=4)
        nodes.ready(OLD[0])
        with publishing(harness, tmp_path, shards=4), publishing(harness, tmp_path, shards=2):
            nodes.start(NEW[0], stream_shards=2)
            nodes.stop(OLD[0])
        eventually(harness.settled, 60)
        harness.xadd(harness.traffic(5, seed=7), shard=3)
        eventually(partial(harness.has_counted, harness.sent), 30)
        eventually(lambda: known_shards(harness) == 2, 30)
        eventually(lambda: harness.redis.get("usage:flushing:{3}") is None, 30)
    harness.check()


def known_shards(harness: Harness) -> int | None:
    """Return the workers' number as a publisher sees it."""
    return shards_of_workers(harness.resources.stream.connection)


def publishing(harness: Harness, folder: Path, *, shards: int) -> AbstractContextManager[None]:
    """Run a publisher process that knows so many shards."""
    harness.env |= {"USAGE_STREAM_SHARDS": str(shards)}
    journals = folder / f"of-{shards}-shards"
    journals.mkdir()
    return harness.publishers(journals, 1, EVENTS)
