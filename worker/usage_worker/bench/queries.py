"""The queries of a user's own pages, and the size of a row, on each version of the schema.

They run as `authenticated` under row-level security. There an index can serve only leakproof conditions, which may be
evaluated before the policies. Equality of `user_id` is leakproof; containment in an array or in jsonb is not, so the
GIN index on `tags` does not serve users. Their tag query is fast because an index on `user_id` leaves few rows.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from usage_worker.bench.query_timing import QueryTiming, time_query
from usage_worker.bench.sql import query as bench_query
from usage_worker.local.isolated_servers import isolated_servers
from usage_worker.migrate import Runner, latest_version
from usage_worker.store.connection import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BOUND_MS = 10.0
"""The limit for the 95th percentile of every query."""

USERS_PER_GROUP = 100
"""Queries run for this many of the users with the most agents, and for as many of the others."""

PARAMETERS = {"folder": "folder 1", "tags": ["tag 1"]}


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """A version of the schema and its named SQL queries.

    Attributes:
        version: the version to migrate to.
        insert: the query that fills `user_agents`.
        queries: the queries to time, by the name that the result shows.
    """

    version: str
    insert: str
    queries: dict[str, str]


QUERIES_2 = {name: f"{name}_2" for name in ("list", "popular", "recent")}
QUERIES_3 = {name: f"{name}_3" for name in ("list", "favourites", "folder", "tags", "popular", "recent")}


@dataclass(frozen=True, slots=True)
class SchemaMeasurement:
    """One version with one number of rows; bytes are those on disk, free space in the pages included."""

    bytes_per_row: int
    index_bytes_per_row: int
    queries: dict[str, QueryTiming]


@dataclass(frozen=True, slots=True)
class QueriesResult:
    """The measurements by version and by number of rows."""

    versions: dict[str, dict[int, SchemaMeasurement]]

    @property
    def worst_p95_ms(self) -> float:
        """The slowest query's 95th percentile, in milliseconds."""
        return max(
            timing.p95_ms
            for sizes in self.versions.values()
            for measured in sizes.values()
            for timing in measured.queries.values()
        )

    @property
    def exact(self) -> bool:
        """Whether every query is below `BOUND_MS`."""
        return self.worst_p95_ms < BOUND_MS

    def as_dict(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return {**asdict(self), "worst_p95_ms": self.worst_p95_ms, "exact": self.exact}


def measure_queries(sizes: Sequence[int], echo: Callable[[str], None]) -> QueriesResult:
    """Start servers, measure every version with every number of rows, and stop the servers.

    Raises:
        EmbeddedServerError: a server did not start.
    """
    versions: dict[str, dict[int, SchemaMeasurement]] = {}
    with ExitStack() as stack:
        servers = stack.enter_context(isolated_servers())
        store = stack.enter_context(Store(servers.database_url))
        for schema in schema_versions():
            Runner(servers.database_url).up(schema.version)
            versions[schema.version] = {rows: _measure(store, schema, rows, echo) for rows in sizes}
    return QueriesResult(versions)


def schema_versions() -> tuple[SchemaVersion, ...]:
    return (
        SchemaVersion("2.0.0", "insert_pairs_2", QUERIES_2),
        SchemaVersion("3.0.0", "insert_pairs_3", QUERIES_3),
        SchemaVersion(latest_version(), "insert_pairs_3", QUERIES_3),
    )


def _measure(store: Store, schema: SchemaVersion, rows: int, echo: Callable[[str], None]) -> SchemaMeasurement:
    echo(f"{schema.version}: filling {rows:,} rows")
    store.execute(bench_query("reset_pair_source"))
    store.rows(bench_query("fill_pair_source"), rows=rows)
    store.rows(bench_query("insert_users_and_agents"))
    store.execute(bench_query(schema.insert))
    store.execute(bench_query("vacuum_pairs"), alone=True)
    users = [row["user_id"] for row in store.rows(bench_query("select_users"), per_group=USERS_PER_GROUP)]
    echo(f"{schema.version}: {len(schema.queries)} queries for {len(users)} users each")
    timings = {name: time_query(store, sql_name, users, PARAMETERS) for name, sql_name in schema.queries.items()}
    return SchemaMeasurement(**store.rows(bench_query("row_size"))[0], queries=timings)
