"""Keys of ours that another program has written: the aids are replaced, a stream is named, and counting goes on."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from usage_worker.errors import KeyTakenError, StreamRefusedError
from usage_worker.monitoring.status import collect_status
from usage_worker.publisher import UsagePublisher
from usage_worker.queue.accounting import counted_key
from usage_worker.queue.claim import CLAIM_SECONDS, FlushClaim
from usage_worker.queue.entry import Pack
from usage_worker.queue.flush_counters import VISIBLE, Increments, counters_of, failure
from usage_worker.queue.flush_record import FlushRecords
from usage_worker.queue.heartbeat import HEARTBEAT_KEY, Heartbeat
from usage_worker.queue.holding import deaths_key
from usage_worker.queue.processes import PROCESSES_KEY, Process, Processes, shards_of_workers

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.integration.conftest import IngestHarness
    from usage_worker.service.resources import Resources

AIDS = (
    PROCESSES_KEY,
    "usage:shards",
    "usage:id_namespace",
    HEARTBEAT_KEY,
    "usage:flush:{0}",
    "usage:flushing:{0}",
    counted_key(0),
    deaths_key(0),
)
PROCESS = Process("worker", ["counting"], ["celery"], 2, "1", uptime=100.0)


@pytest.fixture(params=["set", "lpush", "hset"])
def spoiled(harness: IngestHarness, request: pytest.FixtureRequest) -> redis.Redis:
    """Write something else under every name of ours that is only an aid."""
    client = harness.redis
    client.delete(*AIDS)
    for key in AIDS:
        if request.param == "hset":
            # Fields that we have, too, and one that we have not.
            junk = dict.fromkeys(("base", "entries", "added", "vanished", "succeeded", "accepted:1", "accepted:x"), "x")
            client.hset(key, mapping=junk | {"vanished_at": "never"})  # type: ignore[arg-type]
        else:
            getattr(client, request.param)(key, "x")
    return client


@pytest.mark.usefixtures("spoiled")
def test_aids_are_replaced_and_counting_goes_on(harness: IngestHarness) -> None:
    harness.publish(*({"user_id": user, "agent_id": harness.agents[0]} for user in harness.users), counted=False)
    reports = [harness.worker.flusher.flush_alone(shard) for shard in range(2)]
    assert sum(report.intake.applied for report in reports) == len(harness.users)
    assert harness.worker.stream.backlog(0).entries == 0
    connection = harness.worker.stream.connection
    Processes(connection).record("worker@here", PROCESS)
    assert [record.name for record in Processes(connection).read()] == ["worker@here"]
    assert Heartbeat(connection).beat()
    assert Heartbeat(connection).age() is not None
    assert FlushRecords(connection).read(0)[0].accepted > 0
    assert harness.worker.stream.vanished(0).entries == 0
    assert harness.redis.type(deaths_key(0)) in (b"none", b"hash")
    assert harness.redis.get("usage:shards") == b"2"


@pytest.mark.usefixtures("spoiled")
def test_status_with_taken_keys_and_no_worker(harness: IngestHarness) -> None:
    status = collect_status(harness.resources.settings)
    assert {check.name for check in status.problems} >= {"consumer_counting", "beat"}
    assert not [check for check in status.problems if "Error" in check.reason or "REDIS_URL" in check.remedy]
    assert json.dumps(status.as_dict())


FOREIGN_NUMBERS = ("nan", "1e999", "-9000000000000000000", "9000000000000000000", "9" * 5000)


@pytest.mark.parametrize("text", FOREIGN_NUMBERS, ids=lambda text: text[:20])
def test_foreign_numbers_are_unknown_and_replaced(harness: IngestHarness, text: str) -> None:
    connection, records = harness.worker.stream.connection, FlushRecords(harness.worker.stream.connection)
    in_future = int(time.time() // 60) + 1_000_000
    fields = ("succeeded", "counted", "failed", "waiting", failure("lock"), VISIBLE.sum_field, f"accepted:{in_future}")
    harness.redis.hset("usage:flush:{0}", mapping=dict.fromkeys(fields, text))
    for name in ("x", f"{text} ", '99999999999 {"kind": "worker", "roles": ["counting"], "clock": 0}'):
        harness.redis.hset(PROCESSES_KEY, f"other-{len(name)}", name)
    for key in (HEARTBEAT_KEY, "usage:shards"):
        harness.redis.set(key, text)
    assert records.read(0) == ((None, None, None, None, None, None, 0, 0, 0.0, {}), counters_of({}))
    assert Processes(connection).read() == []
    assert Heartbeat(connection).age() is None
    assert shards_of_workers(connection) is None
    records.counted(0, 3, 0, Increments({failure("lock"): 2, VISIBLE.sum_field: 2_000}))
    flush, counters = records.read(0)
    assert (flush.accepted, counters.failures["lock"], counters.visible.total) == (3, 2, 2.0)
    assert not harness.redis.hexists("usage:flush:{0}", f"accepted:{in_future}")
    Processes(connection).record("worker@here", PROCESS)
    assert harness.redis.hkeys(PROCESSES_KEY) == [b"worker@here"]
    Heartbeat(connection).beat()
    assert Heartbeat(connection).age() is not None


FOREIGN_FIELDS: list[dict[str, object]] = [
    {"shards": 10**18},
    {"shards": "2"},
    {"shards": -1},
    {"uptime": -5},
    {"uptime": float("nan")},
    {"uptime": 10**400},
    {"clock": float("inf")},
    {"clock": "x"},
    {"roles": "counting"},
    {"queues": 5},
    {"version": {}},
]


def test_record_with_a_foreign_value_is_no_process(harness: IngestHarness) -> None:
    ours, now = PROCESS._asdict() | {"clock": 0}, int(time.time())
    records = {"ours": f"{now} {json.dumps(ours)}", "nested": f"{now} {'[' * 100_000}"}
    records |= {str(fields)[:30]: f"{now} {json.dumps(ours | fields)}" for fields in FOREIGN_FIELDS}
    harness.redis.hset(PROCESSES_KEY, mapping=records)  # type: ignore[arg-type]
    assert [it.name for it in Processes(harness.worker.stream.connection).read()] == ["ours"]


def test_times_in_the_future_are_unknown(harness: IngestHarness) -> None:
    connection, records = harness.worker.stream.connection, FlushRecords(harness.worker.stream.connection)
    later = str(time.time() + 86_400)
    harness.redis.hset("usage:flush:{0}", mapping=dict.fromkeys(("succeeded", "counted", f"accepted:{2**40}"), later))
    harness.redis.set(HEARTBEAT_KEY, later)
    assert records.read(0)[0][:2] == (None, None)
    assert Heartbeat(connection).age() is None


def test_foreign_number_of_deaths_is_none(harness: IngestHarness) -> None:
    stream, foreign = harness.worker.stream, ("nan", "inf", "-1000000", "1000000", "x")
    stream.append((0, Pack.of_objects(uuid4(), [b"{}"])) for _ in foreign)
    for entry, deaths in zip(stream.read(0, "other", 10), foreign, strict=True):
        harness.redis.hset(deaths_key(0), entry.entry_id, deaths)
    assert [it.deaths for it in stream.reclaim(0, "another", 10, 0) or []] == [0] * len(foreign)


def test_claim_that_no_worker_wrote(harness: IngestHarness) -> None:
    key, claim = "usage:flushing:{0}", FlushClaim(harness.worker.stream.connection, "one")
    for seconds in (None, 3600):
        harness.redis.set(key, "x", ex=seconds)
        assert claim.take(0)
        assert 0 < harness.redis.ttl(key) <= CLAIM_SECONDS


def test_stream_of_another_type_is_named_and_others_are_counted(harness: IngestHarness) -> None:
    harness.redis.set("usage:events:{0}", "x")
    with pytest.raises(KeyTakenError):
        harness.worker.flusher.flush_alone(0)
    with UsagePublisher(harness.resources.settings.redis_url, linger=0) as publisher:
        for user in harness.users:
            publisher.track(user, harness.agents[0])
        assert not publisher.flush(0.5)
        assert "another program" in publisher.stats().holding
        status = collect_status(harness.resources.settings)
        named = {check.name: check for check in status.problems}
        assert "usage:events:{0}" in named["flush"].reason
        assert "another program" in named["flush"].reason
        assert named["flush"].remedy.startswith("find the program that writes")
        assert "find the program" not in named["flush"].reason
        assert "vanished_entries" not in named
        assert list(status.figures.backlog or ()) == [1]
        harness.redis.delete("usage:events:{0}")
        assert publisher.flush()
    assert harness.flush().applied == len(harness.users)


def test_shards_after_one_of_another_type_have_their_turn(harness: IngestHarness) -> None:
    harness.redis.set("usage:events:{0}", "x")
    seen: list[int] = []

    def look(shard: int) -> None:
        harness.worker.stream.backlog(shard)
        seen.append(shard)

    with pytest.raises(KeyTakenError, match=r"usage:events:\{0\}"):
        harness.worker.stream.each(look)
    assert seen == [1]


def test_command_that_the_user_of_redis_may_not_use_is_named(
    harness: IngestHarness, make_resources: Callable[..., Resources]
) -> None:
    worker = harness.worker.settings.redis_url
    harness.redis.acl_setuser("usage-worker", enabled=True, commands=["-xreadgroup"])
    try:
        resources = make_resources(REDIS_URL=worker)
        with pytest.raises(StreamRefusedError):
            resources.flusher.flush_alone(0)
        harness.redis.acl_setuser("usage-worker", enabled=True, commands=["-xlen"])
        refused = {check.name: check for check in collect_status(resources.settings).problems}["flush"]
        assert "xlen" in refused.reason
        assert refused.remedy.startswith("grant what docs/operations.md lists")
        assert "docs/operations.md" not in refused.reason
    finally:
        harness.redis.acl_setuser("usage-worker", enabled=True, commands=["+xreadgroup", "+xlen"])
    problems = {check.name: check.reason for check in collect_status(harness.resources.settings).problems}
    assert "Redis refused a command" in problems["flush"]
    assert "xreadgroup" in problems["flush"]
    harness.flush()
    assert not FlushRecords(harness.worker.stream.connection).read(0)[0].is_failing
