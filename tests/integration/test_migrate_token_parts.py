"""4.2.0 → 4.1.0 → 4.2.0: the parts of the tokens and the provider keep their values, whatever happens in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.integration.database import copy_up_to, interrupted, run, schema, traffic
from tests.integration.interruptions import Interruptions
from tests.integration.ledger import create_days
from tests.integration.retired import track
from tests.integration.test_migrate_kept import check_balanced_and_exact, count_some, values
from usage_worker.migrate import Kept, Runner, discover

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.conftest import IngestHarness

(PARTS,) = (it for it in discover() if it.version == "4.2.0")
TABLES = ("usage_events", "usage_daily", "usage_retired_daily")
# Parts as a worker counts them, in the ledger, in the days, and in those of a retired pair.
FILL = """
    UPDATE usage_events SET cached_input_tokens = 3, cache_write_tokens = 2, reasoning_tokens = 1, provider = 'p'
     WHERE type = 'usage';
    UPDATE usage_daily SET cached_input_tokens = 3 * usage_count, cache_write_tokens = 2 * usage_count,
                           reasoning_tokens = usage_count;
    UPDATE usage_retired_daily SET cached_input_tokens = 3 * usage_count, cache_write_tokens = 2 * usage_count,
                                   reasoning_tokens = usage_count;
"""
SUMS = "SELECT sum(cached_input_tokens), sum(cache_write_tokens), sum(reasoning_tokens) FROM {}"


def count_parts(harness: IngestHarness, database: str) -> None:
    count_some(harness)
    run(database, FILL)
    check_balanced_and_exact(harness)


def columns(database: str) -> list[tuple[Any, ...]]:
    names = "SELECT attrelid::regclass::text, attname FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped"
    return run(database, f"{names} AND attrelid = ANY (%s::regclass[]) ORDER BY attrelid, attnum", list(TABLES))


def test_columns_of_tables_without_rows_are_dropped(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("4.1.0")
    older, before = schema(empty_database), columns(empty_database)
    runner.up("4.2.0")
    at_latest = schema(empty_database)
    assert runner.kept_by_down("4.1.0") == []
    runner.down("4.1.0")
    assert (schema(empty_database), columns(empty_database)) == (older, before)
    runner.up("4.2.0")
    assert schema(empty_database) == at_latest
    assert runner.verify() == []


def test_values_are_kept_for_next_upgrade(harness: IngestHarness, database: str, tmp_path: Path) -> None:
    """Also where the rollback, or the upgrade after it, stopped between two statements and went the other way."""
    count_parts(harness, database)
    files = copy_up_to(PARTS, tmp_path / "migrations")
    runner, latest = Runner(database, files), Runner(database)
    latest.down("4.2.0")
    before = values(database)

    def state() -> object:
        return schema(database), columns(database), values(database)

    at_latest = state()
    kept = latest.kept_by_down("4.1.0")
    rows = {table: len(before[table]) for table in sorted(TABLES)}
    assert kept == [Kept(table, number, only_columns=True) for table, number in rows.items()]
    latest.down("4.1.0")
    older = schema(database)
    assert latest.verify() == []
    runner.up()
    interruptions = Interruptions(database, files, "4.1.0", older, state, at_latest)
    for direction in ("down", "up"):
        text = (files / f"{PARTS.label}.{direction}.sql").read_text()
        if direction == "up":
            runner.down("4.1.0")
        # Nothing is done before the first statement; the last ones of the upgrade change no row.
        interruptions.check(PARTS, direction, [broken for _, broken in interrupted(text)][1:5])
    latest.up()
    assert latest.verify() == []
    check_balanced_and_exact(harness)


@pytest.mark.parametrize("version", ["4.1.0", "3.0.0"])
def test_pairs_deleted_in_between_keep_their_parts(harness: IngestHarness, database: str, version: str) -> None:
    """The older version retires days without the parts; the ledger still has them."""
    count_parts(harness, database)
    expected = run(database, SUMS.format("usage_events"))
    pairs = [(user, agent) for user in harness.users[2:5] for agent in harness.agents[:3]]
    deleted, recreated, used, *_ = pairs
    runner = Runner(database)
    runner.down(version)
    for pair in (deleted, recreated):
        run(database, "DELETE FROM public.user_agents WHERE (user_id, agent_id) = (%s, %s)", *pair)
    track(database, *recreated)
    track(database, *used)
    runner.up()
    check_balanced_and_exact(harness)
    assert run(database, SUMS.format("usage_events")) == expected
    days = "(SELECT * FROM public.usage_daily UNION ALL SELECT * FROM public.usage_retired_daily) AS days"
    assert run(database, SUMS.format(days)) == expected
    check = "SELECT sum(cached_input_tokens)::int FROM public.usage_retired_daily WHERE (user_id, agent_id) = (%s, %s)"
    assert [run(database, check, *pair) for pair in (deleted, recreated)] == [[(6,)], [(6,)]]
    run(database, "DELETE FROM public.user_agents WHERE (user_id, agent_id) = (%s, %s)", *used)
    assert run(database, check, *used) == [(6,)]
    check_balanced_and_exact(harness)


def test_clients_do_not_wait(harness: IngestHarness, database: str) -> None:
    """A ledger of 90 days: every partition is locked for as long as the change takes."""
    create_days(database, *range(-90, 0), rows=10)
    pairs = [(user, agent) for user in harness.users[:4] for agent in harness.agents[:2]]
    done = [0, 0]

    def client(number: int) -> Callable[[threading.Event], None]:
        def repeat(over: threading.Event) -> None:
            with psycopg.connect(database, autocommit=True, options="-c lock_timeout=5s") as connection:
                while not over.wait(0.01):
                    pair = pairs[done[number] % len(pairs)]
                    connection.execute("SELECT public.track_agent_usage(%s, %s, true, 7)", pair)
                    connection.execute("SELECT max(occurred_at) FROM public.usage_events")
                    done[number] += 1

        return repeat

    runner = Runner(database)
    with traffic(client(0), client(1)):
        for _ in range(3):
            runner.down("4.1.0")
            runner.up()
    assert runner.verify() == []
    assert run(database, "SELECT sum(usage_count) FROM public.user_agents") == [(sum(done),)]
