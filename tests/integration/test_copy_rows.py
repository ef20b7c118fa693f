"""PostgreSQL reads the rows of COPY as the values that were written, and applies totals that span days."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from tests.event_arrays import PlainEvent, array_from, lists_of_events
from tests.plain_fold import plain_fold, sums
from usage_worker.events.columns import COLUMNS, UNIT
from usage_worker.ingest.copy_rows import ledger_rows, totals_rows
from usage_worker.ingest.event_array import TextTable
from usage_worker.ingest.fold import TYPES, fold
from usage_worker.store import counters
from usage_worker.store.copy_binary import HEADER, TRAILER
from usage_worker.store.queries import query
from usage_worker.testing.oracle import Oracle
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date
    from typing import LiteralString
    from uuid import UUID

    Connection = psycopg.Connection[dict[str, Any]]

DECIMALS = ("cost_usd", "rating", "total_cost_usd")
CATALOGUE = """
    SELECT attname, replace(format_type(atttypid, atttypmod), 'timestamp with time zone', 'timestamptz') AS type
      FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
NEWEST: LiteralString = """
    SELECT user_id, agent_id, last_conversation_id FROM public.user_agents WHERE last_conversation_at IS NOT NULL
"""
DAILY: LiteralString = "SELECT * FROM public.usage_daily"


@pytest.mark.parametrize(
    ("columns_of", "missing"),
    [
        ("SELECT attname FROM pg_attribute WHERE attrelid = 'agent_usage_hourly'::regclass AND attnum > 0", set()),
        ("SELECT attname FROM pg_attribute WHERE attrelid = 'agent_usage_daily'::regclass AND attnum > 0", set()),
        # It has the average instead of the sum.
        ("SELECT unnest(proargnames) FROM pg_proc WHERE proname = 'usage_summary'", {"response_time_total_ms"}),
    ],
    ids=["hours", "days", "usage_summary"],
)
def test_roll_ups_have_each_sum_of_the_ledger(database: str, columns_of: str, missing: set[str]) -> None:
    with psycopg.connect(database) as connection:
        names = {name for (name,) in connection.execute(columns_of.encode())}
    assert set(counters.COLUMNS["ledger_sums"]) - names == missing


def connected(database: str) -> Connection:
    connection: Connection = psycopg.connect(database, row_factory=dict_row)
    connection.execute("SET TIME ZONE 'UTC'")
    connection.execute(query("staging"))
    connection.execute(query("stage_ledger"))
    connection.commit()
    return connection


def copy(connection: Connection, statement: LiteralString, *rows: bytes) -> None:
    with connection.cursor() as cursor, cursor.copy(statement) as stream:
        for part in (HEADER, *rows, TRAILER):
            stream.write(part)


def read(connection: Connection, statement: LiteralString) -> Iterator[dict[str, Any]]:
    """Yield rows with decimals in units of their last place."""
    for row in connection.execute(statement):
        yield row | {name: row[name] and int(row[name] * UNIT) for name in DECIMALS if name in row}


def types(connection: Connection, table: str) -> dict[str, str]:
    return {row["attname"]: row["type"] for row in connection.execute(CATALOGUE, (table,))}


def test_columns_of_rows_are_those_of_the_tables(database: str) -> None:
    ledger = {column.name: column.sql_type for column in COLUMNS} | {"cost_source": "text"}
    with connected(database) as connection:
        assert list(types(connection, "batch_totals").items()) == list(TYPES.items())
        assert list(types(connection, "batch_events").items()) == list(ledger.items())
        assert types(connection, "public.usage_events").items() >= ledger.items()


def test_ledger_rows_read_back_unchanged(database: str) -> None:
    with connected(database) as connection:

        @given(lists_of_events(), st.integers(0, 30))
        def check(events: list[PlainEvent], middle: int) -> None:
            texts = TextTable()
            array = array_from(events, texts)
            with connection.transaction(force_rollback=True):
                copy(
                    connection,
                    query("copy_events"),
                    *(ledger_rows(it, texts, None) for it in (array[:middle], array[middle:])),
                )
                rows = list(read(connection, "SELECT * FROM batch_events ORDER BY event_id"))
            expected = sorted(events, key=lambda event: event.event_id)
            assert rows == [event._asdict() | {"cost_source": source_of(event)} for event in expected]

        check()


def source_of(event: PlainEvent) -> str | None:
    if event.type == "rating":
        return None
    return "unknown" if event.cost_usd is None else "caller"


def test_totals_rows_read_back_unchanged(database: str) -> None:
    with connected(database) as connection:

        @given(lists_of_events())
        def check(events: list[PlainEvent]) -> None:
            with connection.transaction(force_rollback=True):
                copy(connection, query("copy_totals"), b"".join(map(totals_rows, fold(array_from(events)).parts(3))))
                rows = list(read(connection, "SELECT * FROM batch_totals"))
            for row in rows:
                ids = row["conversations"] or []
                row |= {"conversations": set(ids), "newest": ids[0] if row["is_pair"] and ids else None}
                row["rating"] = row["rating"] or 0
            found = {(row.pop("user_id"), row.pop("agent_id"), row.pop("day")): row for row in rows}
            assert found == plain_fold(events)

        check()


def test_totals_are_applied_once_for_each_pair_and_day(database: str) -> None:
    with connected(database) as connection:

        @given(lists_of_events(60), st.integers(1, 60))
        @settings(max_examples=30)
        def check(events: list[PlainEvent], size: int) -> None:
            with connection.transaction(force_rollback=True):
                users, agents = {event.user_id for event in events}, {event.agent_id for event in events}
                connection.execute(testing_query("seed_population"), {"users": list(users), "agents": list(agents)})
                for start in range(0, len(events), size):
                    count(connection, events[start : start + size])
                check_tables(connection, events)

        check()


def count(connection: Connection, events: list[PlainEvent]) -> None:
    totals = fold(array_from(events))
    copy(connection, query("copy_totals"), totals_rows(totals))
    missing = connection.execute(query("missing_pairs")).fetchall()
    new = {"users": [row["user_id"] for row in missing], "agents": [row["agent_id"] for row in missing]}
    connection.execute(query("insert_pairs"), new)
    assert connection.execute(query("full_counters")).fetchall() == []
    ranges = [{"first": first, "last": last} for first, last in totals.user_ranges(3)]
    assert sum(connection.execute(query("apply_totals"), users).rowcount for users in ranges) == totals.pair_count
    connection.execute("TRUNCATE batch_totals")


def check_tables(connection: Connection, events: list[PlainEvent]) -> None:
    oracle = Oracle()
    # At equal times the greatest rating counts; the oracle keeps the first.
    for event in sorted(events, key=lambda event: -(event.rating or 0)):
        values = {name: value for name, value in event._asdict().items() if value is not None}
        values |= {name: Decimal(values[name]) / UNIT for name in DECIMALS if name in values}
        oracle.add(values)
    assert oracle.differences(connection.execute(testing_query("counters")).fetchall()) == []
    rows = plain_fold(events)
    newest = {(*key, row["newest"]) for (*key, _), row in rows.items() if row["newest"]}
    assert {tuple(row.values()) for row in connection.execute(NEWEST)} == newest
    days = daily_sums(events)
    found = {(row["user_id"], row["agent_id"], row["day"]): row for row in read(connection, DAILY)}
    assert {key: {name: row[name] for name in sums([])} for key, row in found.items()} == days
    counted: Counter[tuple[UUID, UUID]] = Counter()
    for (user, agent, _), row in found.items():
        counted[user, agent] += row["conversation_count"]
    pairs = {(user, agent): len(row["conversations"]) for (user, agent, _), row in rows.items() if row["is_pair"]}
    assert +counted == +Counter(pairs)


def daily_sums(events: list[PlainEvent]) -> dict[tuple[UUID, UUID, date], dict[str, int]]:
    days: dict[tuple[UUID, UUID, date], list[PlainEvent]] = {}
    for event in events:
        if event.rating is None:
            days.setdefault((event.user_id, event.agent_id, event.occurred_at.date()), []).append(event)
    return {key: sums(own) for key, own in days.items()}
