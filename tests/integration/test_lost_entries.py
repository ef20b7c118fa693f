"""Entries that Redis loses with a server are a figure: never more than were lost, and noted once by all workers."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from usage_worker.local import EmbeddedValkey
from usage_worker.queue.accounting import counted_key
from usage_worker.queue.entry import Pack
from usage_worker.queue.stream import EventStream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEYS = ("usage:events:{0}", counted_key(0))
PACK = Pack.of_objects(uuid4(), [b"{}"])


class Shard:
    """A shard on one server, which can be set back to what a replica had, and the processes that count it."""

    def __init__(self, url: str, processes: int = 3) -> None:
        self.client = redis.Redis.from_url(url)
        self.client.flushdb()
        self.processes = [EventStream(url, 1) for _ in range(processes)]
        self.publisher = EventStream(url, 1)
        self.replicate()
        self.added: set[bytes] = set()
        self.read: set[bytes] = set()
        self.lost: set[bytes] = set()

    def close(self) -> None:
        for stream in (*self.processes, self.publisher):
            stream.close()
        self.client.close()

    @property
    def waiting(self) -> set[bytes]:
        entries: Any = self.client.xrange(KEYS[0])
        return {entry_id for entry_id, _ in entries}

    def add(self, entries: int) -> None:
        before = self.waiting
        self.publisher.append((0, PACK) for _ in range(entries))
        self.added |= self.waiting - before

    def count(self, process: int, entries: int, *, done: bool = True) -> None:
        """Read entries as a flush does, which ends regularly if it is done."""
        stream = self.processes[process]
        stream.watch(0)
        ids = [entry.entry_id for entry in stream.read(0, f"process-{process}", entries)]
        self.read |= {entry_id.encode() for entry_id in ids}
        if done and ids:
            stream.done(0, ids)
        if done:
            stream.leave(0)

    def replicate(self) -> None:
        """Let the replica have everything up to now."""
        self.replica = [self.client.dump(key) for key in KEYS]

    def fail_over(self) -> None:
        """Go back to what the replica has, as its promotion does."""
        before = self.waiting
        for key, value in zip(KEYS, self.replica, strict=True):
            if value:
                self.client.restore(key, 0, value, replace=True)
            else:
                self.client.delete(key)
        self.client.execute_command("DEBUG", "CHANGE-REPL-ID")  # type: ignore[no-untyped-call]
        self.lost |= before - self.waiting - self.read

    def look(self) -> int:
        return self.publisher.vanished(0).entries


@pytest.fixture(scope="module")
def server(module_folder: Path) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(module_folder / "lossy", {"enable-debug-command": "yes", "appendonly": "no"}) as server:
        yield server


@pytest.fixture
def shard(server: EmbeddedValkey) -> Iterator[Shard]:
    with closing(Shard(server.url())) as shard:
        yield shard


def test_lost_entries_vanish_once_whoever_saw_them(shard: Shard) -> None:
    shard.add(20)
    shard.count(0, 10)
    shard.replicate()
    shard.add(7)
    for stream in shard.processes:
        stream.watch(0)
    shard.fail_over()
    shard.add(30)  # the publishers were first
    for _ in range(2):
        for stream in shard.processes:
            stream.watch(0)
        shard.count(1, 50)
    figure = shard.publisher.vanished(0)
    assert (figure.entries, figure.lost) == (7, 7)
    assert figure.seconds is not None


def test_lost_entries_that_were_read_do_not_vanish(shard: Shard) -> None:
    shard.count(0, 1)
    shard.replicate()
    shard.add(12)
    shard.count(0, 5)
    shard.count(0, 5, done=False)
    shard.fail_over()
    shard.processes[0].watch(0)
    assert shard.look() == len(shard.lost) == 2


def test_deletions_that_were_lost_are_no_loss(shard: Shard) -> None:
    shard.add(20)
    shard.count(0, 1)
    shard.replicate()
    shard.count(0, 19)
    shard.processes[0].watch(0)
    shard.fail_over()
    shard.count(0, 50)
    shard.count(1, 50)
    assert shard.look() == 0


def test_server_that_lost_everything_lost_what_waited(shard: Shard) -> None:
    shard.add(20)
    shard.count(0, 5)
    shard.processes[0].watch(0)
    shard.fail_over()
    shard.add(3)
    shard.processes[0].watch(0)
    assert shard.look() == len(shard.lost) == 15


def test_other_deletions_are_not_taken_for_a_lost_server(shard: Shard) -> None:
    shard.add(20)
    shard.count(0, 5)
    shard.processes[0].watch(0)
    shard.client.delete(KEYS[0])
    shard.processes[0].watch(0)
    assert shard.publisher.vanished(0)[::2] == (15, 0)
    shard.client.flushdb()
    shard.processes[0].watch(0)
    assert shard.look() == 0


@pytest.mark.parametrize("fields", [{"history": "x", "start": "nan"}, {"start": "9" * 30}, {"lost": "-1"}], ids=str)
def test_foreign_values_are_replaced(shard: Shard, fields: dict[str, str]) -> None:
    shard.count(0, 1)
    shard.add(20)
    shard.processes[0].watch(0)
    shard.client.hset(KEYS[1], mapping=fields)  # type: ignore[arg-type]
    shard.processes[0].watch(0)
    shard.replicate()
    shard.add(5)
    shard.processes[0].watch(0)
    shard.fail_over()
    shard.processes[0].watch(0)
    assert shard.publisher.vanished(0)[::2] == (5, 5)


NUMBERS = st.integers(1, 5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), NUMBERS),
        st.tuples(st.just("count"), st.integers(0, 2), NUMBERS),
        st.tuples(st.just("replicate")),
        st.tuples(st.just("fail_over")),
        st.tuples(st.just("fail_over"), st.integers(0, 2), NUMBERS),
    ),
    max_size=25,
)


@given(STEPS)
@settings(max_examples=50)
def test_figure_never_exceeds_the_loss(server: EmbeddedValkey, steps: list[tuple[Any, ...]]) -> None:
    with closing(Shard(server.url())) as shard:
        figure = 0
        for name, *arguments in steps:
            if name == "fail_over":
                if arguments:  # in the middle of a flush
                    shard.count(*arguments, done=False)
                shard.fail_over()
                figure = 0  # the note may be lost, too
            else:
                getattr(shard, name)(*arguments)
            assert figure <= shard.look() <= len(shard.lost)
            figure = shard.look()
