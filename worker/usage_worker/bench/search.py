"""The time of searches over agents as `authenticated` under row-level security, and which of the nearest they find."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import fmean, quantiles
from typing import TYPE_CHECKING, Any
from uuid import UUID

from usage_worker.bench.query_timing import signed_in
from usage_worker.bench.sql import query as bench_query
from usage_worker.local.isolated_servers import isolated_servers
from usage_worker.migrate import Runner
from usage_worker.store.connection import Store
from usage_worker.store.queries import query
from usage_worker.store.search import add_model, set_model_ready
from usage_worker.store.vector_index import ensure_vector_indexes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DIMENSION = 384
QUERIES = 100
WANTED_RECALL = 0.99

_USER = UUID(int=1)
_TEXT = "plan a journey by train"
# What each search is given: whether the vector, the text, and the filters.
_SEARCHES: dict[str, tuple[bool, str | None, dict[str, str]]] = {
    "vector": (True, None, {}),
    "vector, filter that leaves 1 %": (True, None, {"status": "beta"}),
    "vector and text": (True, _TEXT, {}),
    "text": (False, _TEXT, {}),
    "text that every agent has": (False, "documents", {}),
}


@dataclass(frozen=True, slots=True)
class SearchTiming:
    """The timing of one kind of search.

    Attributes:
        p50_ms: milliseconds until all rows have arrived in half of the searches.
        p95_ms: likewise in 95 of 100.
        recall: the part of the 10 nearest that is found; None for searches by text.
    """

    p50_ms: float
    p95_ms: float
    recall: float | None


@dataclass(frozen=True, slots=True)
class SearchTimings:
    """The timings by number of agents and kind of search."""

    sizes: dict[int, dict[str, SearchTiming]]

    @property
    def exact(self) -> bool:
        """Whether every search finds enough of the nearest."""
        return all(
            timing.recall is None or timing.recall >= WANTED_RECALL
            for timings in self.sizes.values()
            for timing in timings.values()
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return {**asdict(self), "exact": self.exact}


def measure_search(sizes: Sequence[int], echo: Callable[[str], None]) -> SearchTimings:
    """Start a server for each number of agents, fill it, search, and stop it.

    Raises:
        EmbeddedServerError: a server did not start.
    """
    return SearchTimings({agents: _measure(agents, echo) for agents in sizes})


def _measure(agents: int, echo: Callable[[str], None]) -> dict[str, SearchTiming]:
    with ExitStack() as stack:
        servers = stack.enter_context(isolated_servers())
        store = stack.enter_context(Store(servers.database_url))
        Runner(servers.database_url).up()
        echo(f"filling {agents:,} agents")
        _fill(store, agents)
        vectors = [row["vector"] for row in store.rows(bench_query("select_query_vectors"), queries=QUERIES)]
        echo(f"{len(_SEARCHES)} kinds of search, {QUERIES} times each")
        return {name: _time(store, vectors, *search) for name, search in _SEARCHES.items()}


def _fill(store: Store, agents: int) -> None:
    store.execute(bench_query("make_centres"))
    with store.connection() as connection:
        connection.execute(bench_query("fill_agents"), {"agents": agents})
    add_model(store, "bench", DIMENSION)
    store.execute(bench_query("fill_embeddings"))
    set_model_ready(store, "bench")
    # With 0 rows, so that the extension is there also for few agents, whose search does not use the index.
    ensure_vector_indexes(store, "bench", rows=0)
    store.execute(bench_query("vacuum_agents"), alone=True)


def _time(
    store: Store, vectors: Sequence[Sequence[float]], by_vector: bool, text: str | None, filters: dict[str, str]
) -> SearchTiming:
    milliseconds, recalls = [], []
    for vector in vectors:
        parameters = {
            "vector": vector if by_vector else None,
            "text": text,
            "k": 10,
            "filters": json.dumps(filters),
            "model": None,
        }
        with signed_in(store, _USER) as connection:
            started = time.perf_counter()
            rows = connection.execute(query("search_agents"), parameters, prepare=False).fetchall()
            milliseconds.append(1000 * (time.perf_counter() - started))
        if by_vector and text is None:
            wanted = store.rows(bench_query("nearest_agents"), vector=vector, status=filters.get("status"))
            recalls.append(len({row["agent_id"] for row in wanted} & {row[1] for row in rows}) / max(len(wanted), 1))
    percentiles = quantiles(milliseconds, n=100, method="inclusive")
    return SearchTiming(percentiles[49], percentiles[94], fmean(recalls) if recalls else None)
