"""4.3.0 → 4.2.0 → 4.3.0: where costs come from is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.integration.database import copy_up_to, interrupted, run, schema
from tests.integration.interruptions import Interruptions
from usage_worker.migrate import Kept, Runner, discover

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.users import Users

SOURCES = "SELECT cost_usd::text, cost_source FROM public.usage_events ORDER BY cost_usd, cost_source"
COLUMNS = """
    SELECT attname FROM pg_attribute WHERE attrelid = 'public.usage_events'::regclass AND attname ~ '^cost_source'
"""
CALLS = {
    "a cost": "SELECT public.track_agent_usage(%s, %s, p_cost_usd => 0.5)",
    "free of charge": "SELECT public.track_agent_usage(%s, %s, p_cost_usd => 0)",
    "unknown": "SELECT public.track_agent_usage(%s, %s, p_cost_usd => NULL)",
}


def test_calls_say_where_their_cost_comes_from(database: str, users: Users) -> None:
    for call in CALLS.values():
        run(database, call, users.ann, users.agent)
    found = run(database, SOURCES)
    assert found == [("0.0000000000", "caller"), ("0.5000000000", "caller"), (None, "unknown")]


def test_sources_are_kept_for_next_upgrade(database: str, users: Users) -> None:
    runner, at_latest = Runner(database), schema(database)
    run(database, CALLS["a cost"], users.ann, users.agent)
    assert Kept("usage_events", 1, only_columns=True) in (runner.kept_by_down("4.2.0") or ())
    runner.down("4.2.0")
    run(database, CALLS["unknown"], users.ann, users.agent)
    assert runner.verify() == []
    runner.up()
    assert (schema(database), runner.verify()) == (at_latest, [])
    assert run(database, SOURCES) == [("0.5000000000", "caller"), (None, None)]


def test_sources_survive_stops_between_statements(database: str, users: Users, tmp_path: Path) -> None:
    """Whether the rollback or the upgrade stopped, and whichever way it went on."""
    (migration,) = (it for it in discover() if it.name == "usage_cost_source")
    run(database, CALLS["a cost"], users.ann, users.agent)
    files = copy_up_to(migration, tmp_path / "migrations")
    Runner(database).down(migration.version)
    runner = Runner(database, files)

    def state() -> object:
        return schema(database), run(database, SOURCES), run(database, COLUMNS)

    at_latest = state()
    runner.down("4.2.0")
    older = schema(database)
    runner.up()
    interruptions = Interruptions(database, files, "4.2.0", older, state, at_latest)
    interruptions.check(migration, "down", [text for _, text in interrupted(migration.down_sql)])
    runner.down("4.2.0")
    # The last statement only comments.
    interruptions.check(migration, "up", [text for _, text in interrupted(migration.up_sql)][:-2])


def test_column_of_empty_ledger_is_dropped(empty_database: str) -> None:
    runner = Runner(empty_database)
    runner.up("4.2.0")
    older = schema(empty_database)
    runner.up()
    runner.down("4.2.0")
    assert schema(empty_database) == older
    assert run(empty_database, COLUMNS) == []
