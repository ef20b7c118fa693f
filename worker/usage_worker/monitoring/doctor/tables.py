"""The tables: as the migrations made them, their size, and whether updates of counters stay in their pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usage_worker.errors import SettingsError
from usage_worker.migrate import deviations, discover
from usage_worker.monitoring.check import ok, unknown, warn
from usage_worker.monitoring.checks.postgresql import SCHEMA_CHECK
from usage_worker.monitoring.inspection import POSTGRESQL, Section
from usage_worker.store.queries import query
from usage_worker.wording import counted, percentage, short, short_bytes, utc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection

HOT_SHARE = 0.8
# With fewer updates the share says nothing: a table of one page has no room at its beginning.
LEAST_UPDATES = 1_000
FILLFACTOR = 50
# Autovacuum begins at 20 % by default; with twice as many it does not keep up.
DEAD_SHARE = 0.4
LEAST_DEAD = 10_000
SHOWN_TABLES = 5
SHOWN_DEVIATIONS = 3


def _definitions(inspection: Inspection) -> Iterator[Check]:
    try:
        # Rolled back, since it sets the search_path of the session.
        with inspection.store.connection() as connection, connection.transaction(force_rollback=True):
            found = deviations(connection, discover())
    except SettingsError:
        reason = "only the owner of the tables may compare them with the migrations"
        yield unknown("definitions", reason, "run it with the owner's DATABASE_URL")
        return
    if found:
        listed = "; ".join(f"{it.kind} {it.object} {it.problem}" for it in found[:SHOWN_DEVIATIONS])
        reason = f"not as the migrations made them: {counted(len(found), 'object')}, {listed}"
        yield warn("definitions", reason, "see `usage-worker migrate verify`, then run `usage-worker migrate repair`")
    else:
        yield ok("definitions", "all are as the migrations made them")


def _tables(inspection: Inspection) -> Iterator[Check]:
    tables = inspection.store.rows(query("our_tables"))
    (database,) = inspection.store.rows(query("database_statistics"))
    yield _sizes(tables, database["size"])
    yield from _dead_rows(tables)
    yield _hot(next(it for it in tables if it["name"] == "user_agents"), database["since"])


def _sizes(tables: list[dict[str, Any]], whole: int) -> Check:
    largest = (_size(it) for it in tables[:SHOWN_TABLES])
    (letters,) = (it["live"] for it in tables if it["name"] == "usage_dead_letters")
    return ok("sizes", f"database {short_bytes(whole)}; {', '.join(largest)}; about {short(letters)} dead letters")


def _size(table: dict[str, Any]) -> str:
    parts = f" in {table['parts']} partitions" if table["parts"] > 1 else ""
    return f"{table['name']} {short_bytes(table['size'])}{parts}, {short_bytes(table['indexes'])} of them indexes"


def _dead_rows(tables: list[dict[str, Any]]) -> Iterator[Check]:
    for table in tables:
        if table["dead"] > max(DEAD_SHARE * table["live"], LEAST_DEAD):
            reason = f"{table['name']} has {short(table['dead'])} dead rows beside {short(table['live'])}"
            remedy = "see the checks autovacuum and old_snapshots; VACUUM the table once they pass"
            yield warn("dead_rows", reason, remedy)
    yield ok("dead_rows", f"{short(sum(it['dead'] for it in tables))} of all tables")


def _hot(table: dict[str, Any], since: Any) -> Check:
    """Judge the share of updates that wrote to no index (HOT, heap-only tuples)."""
    updates, fillfactor = table["updates"], table["fillfactor"] or 100
    period = f"since {utc(since)}" if since else "since the database was made"
    if updates < LEAST_UPDATES:
        reason = f"{updates:,} updates of user_agents {period}: too few to tell"
        return unknown("hot_updates", reason)
    found = f"{percentage(table['hot'], updates)} of {short(updates)} updates of user_agents {period} were HOT"
    found += f", fillfactor {fillfactor}"
    if table["hot"] >= HOT_SHARE * updates:
        return ok("hot_updates", found)
    remedy = "see the checks old_snapshots, autovacuum and postgresql_version, and drop indexes of your own on counters"
    if fillfactor != FILLFACTOR:
        remedy = "ALTER TABLE public.user_agents SET (fillfactor = 50), or run `usage-worker migrate repair`"
    return warn("hot_updates", found, remedy)


def _indexes(inspection: Inspection) -> Iterator[Check]:
    for index in inspection.store.rows(query("invalid_indexes")):
        reason = (
            f"the index {index['name']} of {index['of_table']} is invalid: no query uses it, each write maintains it"
        )
        yield warn(
            "invalid_indexes", reason, f"unless it is being built now, REINDEX INDEX CONCURRENTLY {index['name']}"
        )


DEFINITIONS = Section(("definitions",), _definitions, needs=(POSTGRESQL, SCHEMA_CHECK), optional=True)
TABLES = Section(("sizes", "dead_rows", "hot_updates"), _tables, needs=(POSTGRESQL, SCHEMA_CHECK), optional=True)
INDEXES = Section(("invalid_indexes",), _indexes, needs=(POSTGRESQL,), optional=True)
