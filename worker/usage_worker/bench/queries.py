"""The queries of a user's own pages, and the size of a row, on each version of the schema.

They run as `authenticated` under row-level security, where only a leakproof condition may choose the rows that the
policies are asked about. Equality of `user_id` is one; what an array or a jsonb value contains is not, so the GIN index
on tags does not serve users: their tag query is fast because an index on `user_id` leaves few rows to look at.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from usage_worker.bench.query_timing import QueryTiming, time_query
from usage_worker.bench.sql import query as bench_query
from usage_worker.local.servers import Servers
from usage_worker.migrate import Runner, latest_version
from usage_worker.settings import Settings
from usage_worker.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BOUND_MS = 10.0
"""What 95 of 100 answers to any of the queries must stay below."""

HALF = 100
"""So many of the users with the most agents are asked for, and as many of the others."""

PARAMETERS = {"folder": "folder 1", "tags": ["tag 1"]}


@dataclass(frozen=True, slots=True)
class Schema:
    """A version, what fills its table, and its queries by the name that users see."""

    version: str
    fill: str
    queries: dict[str, str]


QUERIES_2 = {name: f"bench_{name}_2" for name in ("list", "popular", "recent")}
QUERIES_3 = {name: f"bench_{name}_3" for name in ("list", "favourites", "folder", "tags", "popular", "recent")}


@dataclass(frozen=True, slots=True)
class Measured:
    """One version with so many rows. Bytes are those on disk, with the free room in the pages."""

    bytes_per_row: int
    index_bytes_per_row: int
    queries: dict[str, QueryTiming]


@dataclass(frozen=True, slots=True)
class QueriesResult:
    """What was measured, by version and by number of rows."""

    versions: dict[str, dict[int, Measured]]

    @property
    def worst_p95_ms(self) -> float:
        return max(
            timing.p95_ms
            for sizes in self.versions.values()
            for measured in sizes.values()
            for timing in measured.queries.values()
        )

    @property
    def ok(self) -> bool:
        return self.worst_p95_ms < BOUND_MS

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "worst_p95_ms": self.worst_p95_ms, "ok": self.ok}


def measure_queries(sizes: Sequence[int], echo: Callable[[str], None]) -> QueriesResult:
    """Start servers, measure every version with every number of rows, stop them.

    Raises:
        EmbeddedServerError: a server does not start.
    """
    versions: dict[str, dict[int, Measured]] = {}
    with ExitStack() as stack:
        servers = stack.enter_context(Servers(Settings.model_construct()))
        store = stack.enter_context(Store(servers.database_url))
        for schema in _schemas():
            Runner(servers.database_url).up(schema.version)
            versions[schema.version] = {rows: _measure(store, schema, rows, echo) for rows in sizes}
    return QueriesResult(versions)


def _schemas() -> tuple[Schema, ...]:
    return (
        Schema("2.0.0", "bench_fill_2", QUERIES_2),
        Schema("3.0.0", "bench_fill_3", QUERIES_3),
        Schema(latest_version(), "bench_fill_3", QUERIES_3),
    )


def _measure(store: Store, schema: Schema, rows: int, echo: Callable[[str], None]) -> Measured:
    echo(f"{schema.version}: filling {rows:,} rows")
    store.execute(bench_query("bench_reset"))
    store.rows(bench_query("bench_pairs"), rows=rows)
    store.rows(bench_query("bench_population"))
    store.execute(bench_query(schema.fill))
    store.execute(bench_query("vacuum_pairs"), alone=True)
    users = [row["user_id"] for row in store.rows(bench_query("bench_users"), half=HALF)]
    echo(f"{schema.version}: {len(schema.queries)} queries for {len(users)} users each")
    timings = {name: time_query(store, sql, users, PARAMETERS) for name, sql in schema.queries.items()}
    return Measured(**store.rows(bench_query("bench_size"))[0], queries=timings)
