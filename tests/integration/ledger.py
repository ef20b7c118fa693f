"""Helpers for partitions of the ledger; days are given as distances from today."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from tests.integration.database import run

ATTACHED = """
    SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'usage_events'::regclass AND NOT i.inhdetachpending ORDER BY 1
"""


INSERT = """
    INSERT INTO usage_events (event_id, occurred_at, type, user_id, agent_id, messages, input_tokens, output_tokens,
                              tokens, success)
    SELECT gen_random_uuid(), %s, 'usage', gen_random_uuid(), gen_random_uuid(), 1, 0, 0, 0, true
"""


def date_of(ahead: int = 0) -> date:
    """Return the day so many days from today; tests ask when they run, since a run of them may go on past midnight."""
    return datetime.now(UTC).date() + timedelta(days=ahead)


def name(when: date) -> str:
    return f"usage_events_{when:%Y%m%d}"


def days(*ahead: int) -> list[str]:
    return [name(date_of(number)) for number in ahead]


def attached_partitions(database: str) -> list[str]:
    return [row[0] for row in run(database, ATTACHED)]


def partition_tables(database: str) -> set[str]:
    """Return the names of all tables that are or were partitions of the ledger."""
    found = "SELECT relname::text FROM pg_class WHERE relname ~ '^usage_events_[0-9]+$' AND relkind = 'r'"
    return {row[0] for row in run(database, found)}


def create_days(database: str, *ahead: int, rows: int = 0) -> None:
    for number in ahead:
        run(database, "SELECT public.usage_events_ensure_day(%s)", date_of(number))
        insert = f"{INSERT} FROM generate_series(1, {rows})"
        run(database, insert, datetime.combine(date_of(number), time(12), UTC))
