"""What `usage_summary` reads of days that the ledger has dropped, and which partitions it takes for the ledger's."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.integration.database import run
from tests.integration.ledger import INSERT, create_days, date_of
from tests.sql import query
from usage_worker.store.reconcile import retained_days

if TYPE_CHECKING:
    from usage_worker.store.connection import Store

SUMMARY = "SELECT usage_count FROM public.usage_summary(%s, %s, 'UTC', '{month}')"


def midnight(ahead: int) -> datetime:
    return datetime.combine(date_of(ahead), time(), UTC)


@pytest.mark.parametrize("earlier", [0, 3000], ids=["from the first day", "from a day before"])
def test_pairs_are_read_once_and_not_for_each_day(database: str, earlier: int) -> None:
    """Of half of the days only the totals of pairs can tell that they had no uses."""
    with psycopg.connect(database) as connection:
        for ahead in range(-500, -440, 4):
            connection.execute(query("dropped_days"), {"day": date_of(ahead)})
        connection.execute(query("pairs_of_dropped_days"))
    with psycopg.connect(database) as connection:
        assert connection.execute(SUMMARY.encode(), [midnight(-500 - earlier), midnight(-440)]).fetchall()
        ((times,),) = connection.execute(query("reads_of_pairs"))
    # For the oldest day, the days without a roll-up, and the users.
    assert times <= 3


def test_partitions_of_other_names_are_not_days(database: str, store: Store) -> None:
    create_days(database, -1)
    first, last = midnight(-1), midnight(0)
    run(database, INSERT, first)
    run(database, "INSERT INTO agent_usage_hour_marks VALUES (%s)", first)
    before = run(database, SUMMARY, first, last)
    kept = retained_days(store)
    for table in ("usage_events", "agent_usage_hourly"):
        run(
            database,
            f"CREATE TABLE {table}_2025_jan PARTITION OF {table} FOR VALUES FROM ('2025-01-01Z') TO ('2025-02-01Z');"
            f"CREATE TABLE {table}_others PARTITION OF {table} DEFAULT",
        )
    assert before
    assert run(database, SUMMARY, first, last) == before
    assert retained_days(store) == kept
    assert first.date() in kept


def test_uses_of_a_dropped_day_that_is_attached_again_count_once(database: str) -> None:
    """Its totals of pairs are read already; it lies between days that the ledger has."""
    create_days(database, -120, -1)
    run(
        database,
        f"CREATE TABLE archive PARTITION OF usage_events FOR VALUES FROM ('{midnight(-110)}') TO ('{midnight(-109)}')",
    )
    for ahead in (-120, -110, -1):
        run(database, INSERT, midnight(ahead))
    run(database, query("fill_daily"))
    users = SUMMARY.replace("{month}", "{user}")
    assert sorted(run(database, users, midnight(-121), midnight(0))) == [(1,), (1,), (1,)]
