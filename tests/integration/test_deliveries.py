"""Which deliveries are new: keys, contents, two servers, newer versions; every event is in the intake totals."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.integration.database import run
from usage_worker.events.columns import NAMES
from usage_worker.ingest import decode, packs
from usage_worker.monitoring.status import collect_status
from usage_worker.queue import oldest_entry
from usage_worker.queue import stream as stream_module
from usage_worker.queue.letter_events import restore
from usage_worker.store.intake import Intake
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import IngestHarness
    from usage_worker.service.resources import Resources

STREAM = "usage:events:{0}"
NOW = datetime.now(UTC).isoformat()
# Of the events 0 to 6 of the property test.
BAD = 6


def event(harness: IngestHarness, **fields: Any) -> dict[str, Any]:
    return {"user_id": str(harness.users[0]), "agent_id": str(harness.agents[0]), **fields}


def add(harness: IngestHarness, events: list[Any], **fields: str) -> bytes:
    entry: Any = {"v": "1", "n": str(len(events)), "events": json.dumps(events), **fields}
    added: Any = harness.redis.xadd(STREAM, entry)
    return bytes(added)


def totals(harness: IngestHarness) -> Intake:
    return harness.resources.store.intake_totals()


def test_key_used_again_for_something_else(harness: IngestHarness) -> None:
    key = str(uuid4())
    first, second = [event(harness, messages=1)], [event(harness, messages=2), event(harness, messages=3)]
    for events in (first, second, first, second, second):
        add(harness, events, id=key)
        harness.flush()
    assert totals(harness) == Intake(3, 1, 0, 2)
    (dead_letter,) = harness.dead_letters()
    assert dead_letter["reason"] == "id: was used before with other contents"
    assert (dead_letter["events"], dead_letter["entry_key"] != UUID(key)) == (2, True)
    assert restore(dead_letter) == {b"v": b"1", b"n": b"2", b"id": key.encode(), b"events": json.dumps(second).encode()}
    for events in ([event(harness, messages=4)], [event(harness, messages=5)]):
        add(harness, events, id=str(uuid4()))
        add(harness, [event(harness)], id=key)
    harness.flush()
    assert totals(harness) == Intake(6, 3, 0, 3), "in one batch, too"


def test_key_used_again_with_another_version(harness: IngestHarness) -> None:
    """The first entry was not read, so that the same body is no second delivery of its events."""
    key = str(uuid4())
    for version in ("01", "01", "1", "1"):
        add(harness, [event(harness)], id=key, v=version)
        harness.flush()
    assert totals(harness) == Intake(2, 0, 0, 2)
    assert [restore(dead_letter)[b"v"] for dead_letter in harness.dead_letters()] == [b"01", b"1"]


def test_pack_sent_twice_is_counted_once(harness: IngestHarness) -> None:
    key = str(uuid4())
    events = [event(harness), event(harness, event_id=str(uuid4()), occurred_at=NOW), event(harness, messages=-1)]
    for flushed in (False, True, True):
        add(harness, events, id=key)
        if flushed:
            harness.flush()
    assert totals(harness) == Intake(3, 2, 0, 1)
    assert len(harness.dead_letters()) == 1


def test_refused_entry_needs_another_id_as_a_backfill(harness: IngestHarness) -> None:
    """Under its own id it is left out: its events are in its dead letter, and can be replayed."""
    old, key = [event(harness, occurred_at=(datetime.now(UTC) - timedelta(days=60)).isoformat())], str(uuid4())
    for fields, intake in (
        ({"id": key}, Intake(1, 0, 0, 1)),
        ({"id": key, "backfill": "1"}, Intake(1, 0, 0, 1)),
        ({"id": str(uuid4()), "backfill": "1"}, Intake(2, 1, 0, 1)),
    ):
        add(harness, old, **fields)
        harness.flush()
        assert totals(harness) == intake


def test_entry_of_former_version_is_delivered_again(harness: IngestHarness) -> None:
    """Its contents were not noted; without a key of its publisher, its own key was another."""
    key, known = str(uuid4()), event(harness, event_id=str(uuid4()), occurred_at=NOW)
    add(harness, [known])
    harness.flush()
    run(harness.resources.settings.database_url, "INSERT INTO usage_entries (key) VALUES (%s)", key)
    add(harness, [known, event(harness)], id=key)
    entry_id = add(harness, [event(harness)]).decode()
    former = uuid5(NAMESPACE_URL, f"redis-stream:{STREAM}/{entry_id}")
    run(harness.resources.settings.database_url, "INSERT INTO usage_entries (key) VALUES (%s)", former)
    harness.flush()
    assert totals(harness) == Intake(1, 1, 0, 0)


def test_newer_version_waits_and_its_neighbours_are_counted(
    harness: IngestHarness, make_resources: Callable[..., Resources], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    newer: Any = {"v": "3", "n": "3", "columns": "{}"}
    pipeline = harness.redis.pipeline(transaction=False)
    for _ in range(10_000):
        pipeline.xadd(STREAM, newer)
    pipeline.execute()
    add(harness, [event(harness)])
    worker = make_resources(reclaim_idle=0.001)
    for applied in (1, 0, 0):
        report = worker.flusher.flush(0, 5)
        assert (report.intake.applied, report.intake.accepted, report.cut_short) == (applied, applied, False)
    assert capfd.readouterr().out.count("wait for a newer worker") == 1
    assert harness.resources.stream.backlog(0)[:2] == (10_000, 10_000)
    harness.redis.xtrim(STREAM, maxlen=5, approximate=False)
    monkeypatch.setattr(stream_module, "WAITING", "newer than version 3 with 19 columns")
    read = worker.stream.reclaim(0, "a newer worker", 20_000, 0.001)
    assert read is not None
    assert [dict(entry.fields) for entry in read] == [{name.encode(): newer[name].encode() for name in newer}] * 5


def test_unknown_column_waits_is_named_and_counted_by_worker_that_knows_it(
    harness: IngestHarness, make_resources: Callable[..., Resources], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of today is the newer one; the older is the same without one column."""
    fields = event(harness, event_id=str(uuid4()), occurred_at=NOW)
    newer = [fields | {"event_id": str(uuid4()), "provider": provider} for provider in ("a", "b")]
    url = harness.resources.settings.database_url
    with monkeypatch.context() as older:
        know_without(older, "provider")
        harness.publish(*newer)
        harness.publish(fields)
        for applied in (1, 0):
            assert harness.flush() == Intake(applied, applied, 0, 0)
        status = collect_status(harness.resources.settings)
        (problem,) = (check for check in status.problems if check.name == "wire_version")
        assert "has columns that these workers do not know (provider)" in problem.reason
        assert problem.remedy == "upgrade the workers; the entries wait meanwhile"
        assert any(harness.resources.stream.backlog(shard).pending for shard in range(2))
        worker = make_resources(reclaim_idle=0.001)
        assert sum(worker.flusher.flush(shard).intake.accepted for shard in range(2)) == 0
    assert sum(worker.flusher.flush(shard).intake.applied for shard in range(2)) == 2
    assert run(url, "SELECT provider FROM usage_events ORDER BY 1") == [("a",), ("b",), (None,)]
    assert "wire_version" not in {check.name for check in collect_status(harness.resources.settings).problems}
    harness.check()


def know_without(monkeypatch: pytest.MonkeyPatch, column: str) -> None:
    """Let the workers of this process not know a column."""
    read = packs._PACK

    def read_without(body: bytes) -> Any:
        if f'"{column}"'.encode() in body:
            raise msgspec.ValidationError
        return read(body)

    names = tuple(name for name in NAMES if name != column)
    monkeypatch.setattr(packs, "_PACK", read_without)
    monkeypatch.setattr(decode, "NAMES", names)
    monkeypatch.setattr(oldest_entry, "NAMES", names)
    for module in (stream_module, oldest_entry):
        monkeypatch.setattr(module, "WAITING", f"newer than version 2 with {len(names)} columns")


@pytest.mark.parametrize("version", ["", "0", "-2", "x", "2.0", "9" * 7, "1e3", None])
def test_what_is_no_version_is_quarantined(harness: IngestHarness, version: str | None) -> None:
    fields: Any = {"n": "4", "events": "[]", "id": "mine"} | ({} if version is None else {"v": version})
    harness.redis.xadd(STREAM, fields)
    assert harness.flush() == Intake(4, 0, 0, 4)
    (dead_letter,) = harness.dead_letters()
    assert dead_letter["reason"] == "v: the entry's version must be 1 or 2"
    assert restore(dead_letter) == {name.encode(): fields[name].encode() for name in fields}


deliveries = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=12)


@settings(
    max_examples=12,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), min_size=6, max_size=6), deliveries)
def test_every_event_is_in_intake_totals(
    harness: IngestHarness, contents: list[list[int]], sent: list[tuple[int, bool]]
) -> None:
    """Events in several entries, entries delivered often, in any batches: an event counts once for each entry."""
    before, ids, keys = totals(harness), [str(uuid4()) for _ in range(7)], [str(uuid4()) for _ in range(6)]
    for entry, flushed in sent:
        numbered = [(number, -1 if number == BAD else 1) for number in contents[entry]]
        events = [event(harness, event_id=ids[it], occurred_at=NOW, messages=messages) for it, messages in numbered]
        add(harness, events, id=keys[entry])
        if flushed:
            harness.flush()
    harness.flush()
    first = [it for entry in {entry for entry, _ in sent} for it in contents[entry]]
    good = [number for number in first if number != BAD]
    got = Intake(*(now - then for now, then in zip(totals(harness), before, strict=True)))
    assert got == Intake(len(first), len(set(good)), len(good) - len(set(good)), first.count(BAD))
    assert harness.resources.store.rows(testing_query("unbalanced")) == []
