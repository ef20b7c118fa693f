"""A key alone identifies an event: whoever sends it again, however, it counts once, with its first time."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from tests.integration.database import run
from tests.integration.test_poison_celery import await_accepted, running_worker
from tests.integration.test_poison_events import full
from usage_worker.events.event import identity_of
from usage_worker.maintenance import dead_letters
from usage_worker.maintenance.dead_letter_choice import DeadLetterFilter
from usage_worker.maintenance.dead_letters import RepairEdits, ReplayReport, replay
from usage_worker.maintenance.partitions import manage_partitions
from usage_worker.publisher import UsagePublisher
from usage_worker.publisher.field_mapping import FieldMapping
from usage_worker.publisher.file_import import ImportReport, publish_file
from usage_worker.store.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import IngestHarness
    from usage_worker.service.resources import Resources

WINDOW = timedelta(days=35)
LEDGER = "SELECT event_id, occurred_at FROM public.usage_events"
KEYS = "SELECT key, occurred_at FROM public.usage_event_keys"


def pair(harness: IngestHarness, **fields: Any) -> dict[str, Any]:
    return {"user_id": str(harness.users[0]), "agent_id": str(harness.agents[0]), **fields}


def track(harness: IngestHarness, **fields: Any) -> None:
    with UsagePublisher(harness.resources.settings.redis_url, linger=0) as publisher:
        assert publisher.track(harness.users[0], harness.agents[0], **fields)
        assert publisher.flush()


def first_time(harness: IngestHarness, database: str, *, key: UUID) -> None:
    """Assert that the ledger has one event, with the kept time, and that the oracle and the counters agree."""
    assert run(database, LEDGER) == run(database, KEYS)
    ((event_id, when),) = run(database, LEDGER)
    assert event_id == key
    harness.oracle.add(pair(harness, event_id=event_id, occurred_at=when))
    harness.check()


@pytest.mark.parametrize("key", ["chatcmpl-123", uuid4()], ids=["text", "UUID"])
def test_key_counts_once_from_every_publisher(harness: IngestHarness, database: str, key: UUID | str) -> None:
    began = datetime.now(UTC)
    track(harness, event_id=key)
    assert harness.flush() == Intake(1, 1, 0, 0)
    between = datetime.now(UTC)
    track(harness, event_id=key)
    assert harness.flush() == Intake(1, 0, 1, 0)
    # Twice in one batch.
    track(harness, event_id=key)
    track(harness, event_id=key)
    assert harness.flush() == Intake(2, 0, 2, 0)
    first_time(harness, database, key=identity_of(key))
    assert began < run(database, KEYS)[0][1] < between


def test_first_of_one_batch_counts(harness: IngestHarness, database: str) -> None:
    track(harness, event_id="order-7")
    between = datetime.now(UTC)
    for _ in range(2):
        track(harness, event_id="order-7")
    assert harness.flush() == Intake(3, 1, 2, 0)
    first_time(harness, database, key=identity_of("order-7"))
    assert run(database, KEYS)[0][1] < between


def test_key_counts_once_at_every_entry_point(harness: IngestHarness, database: str) -> None:
    event = pair(harness, event_id="order-7")
    shard = harness.resources.stream.shard_of(harness.users[0])
    settings = harness.resources.settings
    track(harness, event_id="order-7")
    harness.xadd(json.dumps([event, event]), shard=shard)
    with running_worker(harness, "solo") as sender:
        sender.send_task("usage.track", kwargs=event)
        sender.send_task("usage.track_many", kwargs={"events": [event]})
        await_accepted(harness, 5)
    with UsagePublisher(settings.redis_url, linger=0) as publisher:
        for text, is_csv in ((json.dumps(event), False), (f"{','.join(event)}\n{','.join(event.values())}\n", True)):
            file = io.StringIO(text, newline="")
            report = publish_file(publisher, file, FieldMapping({}, {}), WINDOW, unexpected, is_csv=is_csv)
            assert report == ImportReport(sent=1, bad=0)
        assert publisher.add(dict(event))
        assert publisher.flush()
    assert harness.flush() == Intake(3, 0, 3, 0)
    assert harness.resources.store.intake_totals() == Intake(8, 1, 7, 0)
    first_time(harness, database, key=identity_of("order-7"))


def test_time_of_caller_is_part_of_identity(harness: IngestHarness, database: str) -> None:
    now = datetime.now(UTC)
    for when in (now, now, now - timedelta(hours=1)):
        track(harness, event_id="order-7", occurred_at=when)
    assert harness.flush() == Intake(3, 2, 1, 0)
    assert run(database, KEYS) == []


def test_redelivered_pack_counts_once(harness: IngestHarness, database: str) -> None:
    track(harness, event_id="order-7")
    (fields,) = entries(harness)
    assert fields[b"times"] == b"publisher"
    assert harness.flush() == Intake(1, 1, 0, 0)
    harness.redis.xadd(stream_of(harness), fields)
    assert harness.flush() == Intake(0, 0, 0, 0)
    first_time(harness, database, key=identity_of("order-7"))


def test_events_beside_a_bad_one_keep_the_mark(harness: IngestHarness, database: str) -> None:
    shard = harness.resources.stream.shard_of(harness.users[0])
    key = uuid4()
    for _ in range(2):
        bad = full(harness, messages=-1)
        harness.xadd(json.dumps([bad, full(harness, event_id=str(key))]), shard=shard, times="publisher")
    assert harness.flush() == Intake(4, 1, 1, 2)
    first_time(harness, database, key=key)


def test_packs_hold_one_kind_of_times(harness: IngestHarness) -> None:
    with UsagePublisher(harness.resources.settings.redis_url) as publisher:
        for number in range(6):
            when = datetime.now(UTC) if number % 3 else None
            key = None if number % 3 == 2 else str(number)
            assert publisher.track(harness.users[0], harness.agents[0], event_id=key, occurred_at=when)
        assert publisher.flush()
    marks = [(fields[b"n"], fields.get(b"times")) for fields in entries(harness)]
    assert sorted(marks, key=str) == [(b"2", b"publisher"), (b"4", None)]


def test_quarantined_key_counts_once_after_replay(harness: IngestHarness, database: str) -> None:
    unknown = uuid4()
    shard = harness.resources.stream.shard_of(unknown)
    event = {**pair(harness, event_id="order-7"), "user_id": str(unknown)}
    harness.xadd(json.dumps([event]), shard=shard)
    assert harness.flush() == Intake(1, 0, 0, 1)
    ((_, first),) = run(database, KEYS)
    run(database, "INSERT INTO auth.users (id) VALUES (%s)", unknown)
    harness.xadd(json.dumps([event]), shard=shard)
    assert harness.flush() == Intake(1, 1, 0, 0)
    replayed(harness, RepairEdits())
    harness.xadd(json.dumps([event]), shard=shard)
    assert harness.flush() == Intake(2, 0, 2, 0)
    assert run(database, LEDGER) == [(identity_of("order-7"), first)]


@pytest.mark.parametrize("fields", [{}, {"occurred_at": datetime.now(UTC).isoformat()}])
def test_corrected_event_of_the_same_batch_is_counted(harness: IngestHarness, fields: dict[str, str]) -> None:
    """As it is in a later batch: the refused event does not make it a duplicate."""
    event = pair(harness, event_id="order-7", **fields)
    bad = {**event, "user_id": str(uuid4())}
    harness.xadd(json.dumps([bad, bad, event, event]))
    harness.xadd(json.dumps([event, bad]))
    assert harness.flush() == Intake(6, 1, 4, 1)
    harness.xadd(json.dumps([event]))
    assert harness.flush() == Intake(1, 0, 1, 0)
    assert run(harness.resources.settings.database_url, "SELECT usage_count FROM user_agents") == [(1,)]


@pytest.mark.parametrize("are_rows_held", [False, True])
def test_event_is_counted_after_several_wrong_corrections_in_one_batch(
    harness: IngestHarness, *, are_rows_held: bool
) -> None:
    """As it is in later batches; also while rows that others hold are looked for."""
    if are_rows_held:
        harness.worker.flusher._applier.held.mode.trip()
    event = pair(harness, event_id="order-7", occurred_at=datetime.now(UTC).isoformat())
    wrong = [{**event, name: str(uuid4())} for name in ("user_id", "agent_id", "user_id")]
    harness.xadd(json.dumps([wrong[0], wrong[1], wrong[0], wrong[2]]))
    harness.xadd(json.dumps([event, event]))
    assert harness.flush() == Intake(6, 1, 4, 1)
    harness.xadd(json.dumps([event]))
    assert harness.flush() == Intake(1, 0, 1, 0)
    assert run(harness.resources.settings.database_url, "SELECT usage_count FROM user_agents") == [(1,)]


@pytest.mark.parametrize("by_publisher", [False, True])
def test_repaired_key_counts_once(harness: IngestHarness, database: str, by_publisher: bool) -> None:
    """A refused event has no first time yet; its replay gets one, like any delivery."""
    shard = harness.resources.stream.shard_of(harness.users[0])
    event = pair(harness, event_id="order-7")
    mark, time = ({"times": "publisher"}, {"occurred_at": datetime.now(UTC).isoformat()}) if by_publisher else ({}, {})
    harness.xadd(json.dumps([event | {"model": 5} | time]), shard=shard, **mark)
    assert harness.flush() == Intake(1, 0, 0, 1)
    assert run(database, KEYS) == []
    replayed(harness, RepairEdits({"model": "gpt"}))
    assert harness.flush() == Intake(1, 1, 0, 0)
    harness.xadd(json.dumps([event]), shard=shard)
    track(harness, event_id="order-7")
    assert harness.flush() == Intake(2, 0, 2, 0)
    first_time(harness, database, key=identity_of("order-7"))


def test_concurrent_batches_agree(
    harness: IngestHarness, make_resources: Callable[..., Resources], database: str
) -> None:
    keys = [f"order-{number}" for number in range(200)]
    for number in range(10):
        shuffled = sorted(keys, key=lambda key, number=number: hash((key, number)))  # type: ignore[misc]
        body = json.dumps([pair(harness, event_id=key) for key in shuffled])
        harness.xadd(body, shard=number % 2)
    workers = [make_resources(), make_resources()]
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda shard: workers[shard].flusher.flush(shard, 60), range(2)))
    assert sum((report.intake for report in reports), Intake()) == Intake(2_000, 200, 1_800, 0)
    assert sorted(run(database, LEDGER)) == sorted(run(database, KEYS))
    assert run(database, "SELECT usage_count FROM public.user_agents") == [(200,)]


def test_keys_are_deleted_after_acceptance_window(harness: IngestHarness, database: str) -> None:
    store, settings = harness.resources.store, harness.resources.settings
    track(harness, event_id="order-7")
    harness.flush()
    insert = "INSERT INTO public.usage_event_keys SELECT gen_random_uuid(), now() - %s * interval '1 day'"
    run(database, f"{insert} FROM generate_series(1, 6000)", settings.accept_window.days + 1.5)
    run(database, insert, settings.accept_window.days - 0.5)
    assert manage_partitions(store, settings).deleted_keys == 6_000
    assert run(database, "SELECT count(*) FROM public.usage_event_keys") == [(2,)]


def stream_of(harness: IngestHarness) -> str:
    return harness.resources.stream.key(harness.resources.stream.shard_of(harness.users[0]))


def entries(harness: IngestHarness) -> list[dict[Any, Any]]:
    found: Any = harness.redis.xrange(stream_of(harness))
    return [fields for _, fields in found]


def replayed(harness: IngestHarness, edits: RepairEdits) -> None:
    store, settings = harness.resources.store, harness.resources.settings
    with UsagePublisher(settings.redis_url, linger=0) as publisher:
        found = list(dead_letters.matching_dead_letters(store, DeadLetterFilter()))
        assert replay(store, publisher, found, edits, settings, unexpected) == ReplayReport(sent=len(found), bad=0)


def unexpected(number: int, error: Exception) -> None:
    pytest.fail(f"{number}: {error}")
