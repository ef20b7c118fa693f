"""The transaction of a batch on real servers: which events are counted, and that the intake totals agree."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.integration.database import run
from tests.sql import query
from usage_worker.errors import SettingsError
from usage_worker.queue.claim import FlushClaim
from usage_worker.store.intake import Intake
from usage_worker.testing import Population, generate_usage
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import IngestHarness
    from usage_worker.queue.entry import RawEntry
    from usage_worker.service.resources import Resources

NOW = datetime.now(UTC)


def event(harness: IngestHarness, **fields: Any) -> dict[str, Any]:
    return {
        "event_id": uuid4(),
        "occurred_at": NOW,
        "user_id": harness.users[0],
        "agent_id": harness.agents[0],
        **fields,
    }


def traffic(harness: IngestHarness, count: int, seed: int = 1) -> list[dict[str, Any]]:
    population = Population(harness.users, harness.agents)
    random = Random(seed)
    return [
        fields | {"event_id": uuid4(), "occurred_at": NOW - timedelta(seconds=random.randint(0, 3 * 86_400))}
        for fields in generate_usage(population, count, "uniform", seed)
    ]


def test_all_events_are_counted_once(harness: IngestHarness) -> None:
    events = traffic(harness, 3_000)
    harness.publish(*events)
    assert harness.flush() == Intake(3_000, 3_000, 0, 0)
    harness.check()


def test_reads_stay_small_where_large_entries_follow_small_ones(harness: IngestHarness) -> None:
    """What one read returns is in memory at once."""
    reads: list[int] = []
    read = harness.worker.stream.read

    def noted(shard: int, consumer: str, count: int, wait: float = 0.0) -> list[RawEntry]:
        entries = read(shard, consumer, count, wait)
        reads.append(sum(len(entry.body or b"") for entry in entries))
        return entries

    harness.worker.stream.read = noted  # type: ignore[method-assign]
    for size in (0,) * 10 + (100_000,) * 300:
        harness.oracle.add(sent := event(harness))
        harness.xadd(json.dumps([sent], default=str) + " " * size)
    harness.flush()
    assert max(reads) < 12_000_000
    harness.check()


def test_duplicates_within_and_across_batches_and_shards(harness: IngestHarness) -> None:
    events = traffic(harness, 500)
    harness.publish(*events, *events)
    assert harness.flush() == Intake(1_000, 500, 500, 0)
    harness.publish(*reversed(events))
    body = json.dumps([{key: str(events[0][key]) for key in ("event_id", "occurred_at", "user_id", "agent_id")}])
    harness.xadd(body, shard=0)
    harness.xadd(body, shard=1)
    assert harness.flush() == Intake(502, 0, 502, 0)
    harness.check()


def test_order_of_arrival_does_not_matter(harness: IngestHarness) -> None:
    conversations = [uuid4() for _ in range(5)]
    for minute in (3, 1, 4, 0, 2):
        when = NOW - timedelta(minutes=minute)
        harness.publish(event(harness, occurred_at=when, conversation_id=conversations[minute]))
        harness.publish(event(harness, type="rating", rating=str(minute), occurred_at=when))
        harness.flush()
    harness.publish(event(harness))
    harness.flush()
    harness.check()
    rows = harness.resources.store.rows(query("last_conversations"))
    assert [row["last_conversation_id"] for row in rows] == [conversations[0]]


def test_sum_of_tiny_costs_is_exact(harness: IngestHarness) -> None:
    harness.publish(*[event(harness, cost_usd="0.0004") for _ in range(1_000)])
    harness.flush()
    harness.check()
    assert harness.oracle.rows[harness.users[0], harness.agents[0]].total_cost_usd == Decimal("0.4")


def test_redelivered_entry_is_in_intake_totals_once(
    harness: IngestHarness, make_resources: Callable[..., Resources]
) -> None:
    """A worker died between commit and acknowledgement, so its entries are delivered again."""
    events = traffic(harness, 200)
    harness.publish(*events)
    for shard in range(2):
        name = f"usage:events:{{{shard}}}"
        copies = [fields for _, fields in harness.redis.xrange(name)]  # type: ignore[union-attr]
        harness.flush_shard(shard)
        for fields in copies:
            harness.redis.xadd(name, fields)  # type: ignore[arg-type]
    second = make_resources().flusher
    assert sum((second.flush(shard).intake for shard in range(2)), Intake()) == Intake()
    assert harness.resources.store.intake_totals() == Intake(200, 200, 0, 0)
    harness.check()


def test_only_one_flush_at_a_time_per_shard(harness: IngestHarness) -> None:
    harness.publish(*traffic(harness, 100))
    flusher, connection = harness.worker.flusher, harness.worker.stream.connection
    another, third = FlushClaim(connection, "another"), FlushClaim(connection, "a third")
    assert all(another.take(shard) for shard in range(2))
    assert sum((flusher.flush_alone(shard).intake for shard in range(2)), Intake()) == Intake()
    for shard in range(2):
        another.release(shard)
    reports = [flusher.flush_alone(shard) for shard in range(2)]
    assert sum((report.intake for report in reports), Intake()) == Intake(100, 100, 0, 0)
    # The flush handed its claims over to its successors; a consumer cannot release the claim of another.
    assert not any(another.take(report.shard) for report in reports)
    assert all(another.take(report.shard, report.successor) for report in reports)
    third.release(0)
    assert not third.take(0)
    harness.check()


def test_flush_past_time_budget_counts_entries_already_read(
    harness: IngestHarness, make_resources: Callable[..., Resources]
) -> None:
    for one in traffic(harness, 60):
        harness.publish(one)
    # Every entry fills a batch, so the next one is read while one is counted, even if the time budget runs out.
    small_batches = make_resources(batch_events=1)
    counted, cut_short = Intake(), 0
    while small_batches.stream.backlog(0).entries or small_batches.stream.backlog(1).entries:
        for shard in range(2):
            report = small_batches.flusher.flush(shard, 0.02)
            counted, cut_short = counted + report.intake, cut_short + report.cut_short
            assert small_batches.stream.backlog(shard).pending == 0
    assert counted == Intake(60, 60, 0, 0)
    assert cut_short
    harness.check()


def test_abandoned_batch_is_reclaimed(harness: IngestHarness, make_resources: Callable[..., Resources]) -> None:
    harness.publish(*traffic(harness, 300))
    for shard in range(2):
        assert harness.resources.stream.read(shard, "a worker that dies now", 100)
    assert harness.flush() == Intake()
    other_flusher = make_resources(reclaim_idle=0.001).flusher
    assert sum((other_flusher.flush(shard).intake for shard in range(2)), Intake()) == Intake(300, 300, 0, 0)
    harness.check()


def test_lost_consumer_group_counts_nothing_twice(harness: IngestHarness) -> None:
    harness.publish(*traffic(harness, 100))
    harness.flush()
    harness.publish(*traffic(harness, 100, seed=2))
    for shard in range(2):
        harness.redis.xgroup_destroy(f"usage:events:{{{shard}}}", "usage")
    assert harness.flush() == Intake(100, 100, 0, 0)
    harness.check()


def test_foreign_producer_needs_neither_identity_nor_time(harness: IngestHarness) -> None:
    harness.xadd(
        json.dumps([{"user_id": str(harness.users[0]), "agent_id": str(harness.agents[0]), "cost_usd": 0.1}] * 2)
    )
    assert harness.flush() == Intake(2, 2, 0, 0)
    row = next(row for row in harness.resources.store.rows(testing_query("counters")) if row["usage_count"])
    assert (row["usage_count"], row["total_cost_usd"]) == (2, Decimal("0.2"))


@pytest.mark.parametrize("number", ["999999.9999999999", "700000.1234567891", "9.999999999999999e5"])
def test_numbers_never_become_binary_floats(harness: IngestHarness, number: str) -> None:
    body = f'[{{"user_id": "{harness.users[0]}", "agent_id": "{harness.agents[0]}", "cost_usd": {number}}}]'
    harness.xadd(body)
    assert harness.flush().applied == 1
    row = next(row for row in harness.resources.store.rows(testing_query("counters")) if row["usage_count"])
    assert row["total_cost_usd"] == Decimal(number)


BAD: dict[str, tuple[dict[str, Any] | None, str]] = {
    "unknown field": ({"colour": "red"}, "colour: Extra inputs are not permitted"),
    "wrong type": ({"messages": "two"}, "messages: Input should be a valid integer"),
    "text for a number": ({"messages": "two"}, "messages: Input should be a valid integer"),
    "negative": ({"input_tokens": -1}, "input_tokens: Input should be greater than or equal to 0"),
    "naive time": ({"occurred_at": "2026-01-01T00:00:00"}, "occurred_at: Input should have timezone info"),
    "too old": ({"occurred_at": "2020-01-01T00:00:00Z"}, "occurred_at: older than the acceptance window"),
    "future": ({"occurred_at": "2999-01-01T00:00:00Z"}, "occurred_at: more than 5 minutes in the future"),
    "over-long": ({"model": "m" * 201}, "model: String should have at most 200 characters"),
    "zero byte": ({"model": "a\x00b"}, "model: String should match pattern"),
    "half a character": ({"model": "\ud800"}, "model: Input should be valid Unicode"),
    "huge integer": ({"messages": 10**30}, "messages: Input should be less than or equal to 1000000"),
    "no such user": ({"user_id": str(UUID(int=1))}, "user_id: no such user"),
    "no such agent": ({"agent_id": str(UUID(int=1))}, "agent_id: no such agent"),
    "not an object": (None, "event: Input should be an object"),
    "more tokens than fit": ({"input_tokens": 10**12, "output_tokens": 1}, "tokens: the sum of input and output"),
}


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_event_among_thousand(harness: IngestHarness, kind: str) -> None:
    fields, reason = BAD[kind]
    good = [event(harness, user_id=user) for user in harness.users[:10] for _ in range(100)][:999]
    events: list[Any] = [{key: str(value) for key, value in one.items()} for one in good]
    bad = None if fields is None else {"user_id": str(harness.users[0]), "agent_id": str(harness.agents[0]), **fields}
    events.insert(500, bad)
    for one in good:
        harness.oracle.add(one)
    harness.xadd(json.dumps(events))
    assert harness.flush() == Intake(1_000, 999, 0, 1)
    harness.check()
    (dead_letter,) = harness.dead_letters()
    assert reason in dead_letter["reason"]
    assert (dead_letter["position"], dead_letter["events"]) == (500, 1)
    if bad is not None and "user_id" not in (fields or {}):
        assert str(harness.users[0]) in dead_letter["payload"]


@pytest.mark.parametrize(
    ("body", "version", "reason"),
    [
        (b"[{", "1", "events: "),
        (b"\xff\xfe", "1", "events: "),
        (b"{}", "1", "events: must be a JSON array"),
        (b"[]", "1", "events: the entry holds no event"),
        (b"[" * 100_000, "1", "events: "),
        (b"[]", "one", "v: the entry's version must be 1"),
    ],
)
def test_unreadable_entry_is_quarantined_whole(harness: IngestHarness, body: bytes, version: str, reason: str) -> None:
    harness.publish(event(harness))
    harness.xadd(body, version, n="7")
    assert harness.flush() == Intake(8, 1, 0, 7)
    harness.check()
    (dead_letter,) = harness.dead_letters()
    assert reason in dead_letter["reason"]
    assert dead_letter["events"] == 7


def test_entry_with_only_foreign_fields(harness: IngestHarness) -> None:
    harness.redis.xadd("usage:events:{0}", {"hello": "world"})
    assert harness.flush() == Intake(1, 0, 0, 1)
    harness.check()


def test_refused_event_and_its_duplicate(harness: IngestHarness) -> None:
    unknown_user = event(harness, user_id=UUID(int=1))
    harness.publish(unknown_user, unknown_user, counted=False)
    assert harness.flush() == Intake(2, 0, 1, 1)
    harness.check()


def test_values_that_fit_alone_but_not_in_sum(harness: IngestHarness, database: str) -> None:
    harness.publish(first := event(harness, tokens=0))
    harness.flush()
    full = "UPDATE public.user_agents SET total_tokens_used = 9223372036854775807 - 1500000000000 WHERE user_id = %s"
    run(database, full, first["user_id"])
    large = [event(harness, tokens=10**12) for _ in range(3)]
    harness.publish(*large, counted=False)
    # The pair is refused as a whole: which of its events would fit depends on their order.
    assert harness.flush() == Intake(3, 0, 0, 3)
    assert {letter["reason"].partition(":")[0] for letter in harness.dead_letters()} == {"total_tokens_used"}


def test_unknown_users_are_created_if_setting_and_grant_allow(
    harness: IngestHarness, make_resources: Callable[..., Resources], database: str, ingest_login: str
) -> None:
    harness.publish(event(harness, user_id=uuid4(), agent_id=uuid4()), event(harness, user_id=uuid4()))
    creator = make_resources(unknown="create").flusher
    with pytest.raises(SettingsError, match=f"needs (GRANT EXECUTE ON FUNCTION .* TO {ingest_login})$") as refused:
        [creator.flush(shard) for shard in range(2)]
    run(database, str(refused.value).partition("needs ")[2])
    creator = make_resources(unknown="create", reclaim_idle=0.001).flusher
    assert sum((creator.flush(shard).intake for shard in range(2)), Intake()) == Intake(2, 2, 0, 0)
    harness.check()


def test_day_missing_from_its_month(harness: IngestHarness, make_resources: Callable[..., Resources]) -> None:
    year = NOW.year if NOW.month > 2 else NOW.year - 1
    pair = {"user_id": str(harness.users[0]), "agent_id": str(harness.agents[0])}
    harness.xadd(json.dumps([{**pair, "occurred_at": f"{year}-02-30T00:00:00.000000Z"}]))
    harness.publish(event(harness))
    flusher = make_resources(accept_days=400).flusher
    assert sum((flusher.flush(shard).intake for shard in range(2)), Intake()) == Intake(2, 1, 0, 1)
    harness.check()
    assert "day is out of range for month" in harness.dead_letters()[0]["reason"]


def test_creating_users_is_refused_if_platform_owns_them(
    harness: IngestHarness, make_resources: Callable[..., Resources], database: str
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE ROLE platform_owner")
        try:
            connection.execute("ALTER TABLE auth.users OWNER TO platform_owner")
            unknown_user = uuid4()
            harness.publish(event(harness, user_id=unknown_user))
            creator = make_resources(unknown="create").flusher
            shard = harness.resources.stream.shard_of(unknown_user)
            with pytest.raises(SettingsError, match="USAGE_UNKNOWN=create is not for a platform"):
                creator.flush(shard)
        finally:
            connection.execute("ALTER TABLE auth.users OWNER TO CURRENT_USER")
            connection.execute("DROP ROLE platform_owner")


def test_soft_deleted_pair_is_counted_and_stays_deleted(harness: IngestHarness, database: str) -> None:
    harness.publish(event(harness))
    harness.flush()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE user_agents SET deleted_at = now()")
        harness.publish(event(harness))
        harness.flush()
        assert connection.execute("SELECT usage_count, deleted_at IS NOT NULL FROM user_agents").fetchall() == [
            (2, True)
        ]
    harness.check()


def test_days_are_utc_days(harness: IngestHarness, database: str) -> None:
    midnight = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    times = [midnight - timedelta(microseconds=1), midnight, midnight - timedelta(days=33)]
    harness.publish(*[event(harness, occurred_at=when) for when in times])
    harness.flush()
    harness.check()
    with psycopg.connect(database) as connection:
        days = connection.execute("SELECT day FROM usage_daily ORDER BY day").fetchall()
    assert [day for (day,) in days] == sorted(when.date() for when in times)


def test_ledger_holds_events_as_sent(harness: IngestHarness, database: str) -> None:
    sent = event(
        harness, messages=3, input_tokens=5, output_tokens=7, cost_usd="0.0000000001", success=False, model="m"
    )
    harness.publish(sent)
    harness.flush()
    with psycopg.connect(database) as connection:
        row = connection.execute(
            "SELECT event_id, occurred_at, type, messages, tokens, cost_usd, success, model FROM usage_events"
        ).fetchone()
    assert row == (sent["event_id"], NOW, "usage", 3, 12, Decimal("0.0000000001"), False, "m")


def test_entries_larger_than_they_declare_are_counted_in_the_turn_that_read_them(harness: IngestHarness) -> None:
    """The first read takes ten entries, here of 14 MiB, so that it becomes two batches after the end of its turn."""
    pair = {"user_id": str(harness.users[0]), "agent_id": str(harness.agents[0]), "model": "m" * 200}
    body = json.dumps([pair] * 5_000)
    for _ in range(10):
        harness.xadd(body)
    report = harness.resources.flusher.flush(0, 0.001)
    assert (report.intake.applied, report.batches, report.cut_short) == (50_000, 2, True)
    assert harness.resources.stream.backlog(0)[:2] == (0, 0)


def test_large_entries_of_a_vanished_worker_are_decoded_in_parts(
    harness: IngestHarness, make_resources: Callable[..., Resources]
) -> None:
    """Ten entries of 14 MiB in all are reclaimed at once, and counted in the turn that reclaimed them."""
    pair = {"user_id": str(harness.users[0]), "agent_id": str(harness.agents[0]), "model": "m" * 200}
    body = json.dumps([pair] * 5_000)
    for _ in range(10):
        harness.xadd(body)
    assert len(harness.resources.stream.read(0, "vanished", 10, 0.0)) == 10
    other = make_resources(reclaim_idle=0.001)
    report = other.flusher.flush(0, 0.001)
    assert (report.intake.applied, report.batches) == (50_000, 2)
    assert other.stream.backlog(0)[:2] == (0, 0)
