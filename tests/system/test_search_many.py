"""More agents than are compared one by one: the index of pgvector, or a clear error where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.integration.agents import DIMENSION, OWNER, STRANGER, add_agents, draw, has_pgvector, names, search
from tests.integration.database import run
from tests.integration.users import session_as
from usage_worker.store.connection import Store
from usage_worker.store.search import add_model, set_model_ready
from usage_worker.store.vector_index import EXACT_ROWS, ensure_vector_indexes

if TYPE_CHECKING:
    from collections.abc import Iterator

AGENTS = EXACT_ROWS + 6_000
K = 10
# Each agent's vector by pseudo-random numbers of its id.
FILL = f"""
    WITH agents AS (
        INSERT INTO public.agents (id, name, created_by, status)
        SELECT md5(i::text)::uuid, 'agent ' || i, %s, i %% 100 FROM generate_series(1, {AGENTS}) AS i RETURNING id
    )
    INSERT INTO public.agent_embeddings (agent_id, model, dimension, embedding, content_hash)
    SELECT id, 'model', {DIMENSION}, ARRAY(SELECT (x / sqrt(sum(x ^ 2) OVER ()))::real FROM unnest(raw) AS x),
           sha256('')
      FROM (
        SELECT id, ARRAY(SELECT hashtextextended(id::text, n) / 2 ^ 63 FROM generate_series(1, {DIMENSION}) AS n) AS raw
          FROM agents
      ) AS drawn
"""
NEAREST = """
    SELECT e.agent_id FROM public.agent_embeddings AS e JOIN public.agents AS a ON a.id = e.agent_id AND a.is_active
     WHERE status = coalesce(%(status)s, status)
     ORDER BY (SELECT sum(x::float8 * y) FROM unnest(e.embedding, %(query)s::real[]) AS p (x, y)) DESC LIMIT %(most)s
"""


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    with Store(database) as store:
        yield store


@pytest.fixture
def many(database: str, store: Store) -> str:
    add_model(store, "model", DIMENSION)
    set_model_ready(store, "model")
    add_agents(database)
    run(database, FILL, OWNER)
    run(database, "VACUUM ANALYZE")
    return database


def nearest(url: str, query: list[float], status: str | None = None, most: int = K) -> list[object]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute(NEAREST, {"query": query, "status": status, "most": most})]


def test_many_agents(many: str, store: Store) -> None:
    if not has_pgvector(many):
        with pytest.raises(
            psycopg.errors.ProgramLimitExceeded, match="more than 5000 agents need the extension vector"
        ):
            search(many, draw(0))
        assert names(search(many, draw(0), "agent 77"))[0] == "agent 77"
        assert [row[1] for row in search(many, draw(0), filters='{"status": "7"}')] == nearest(many, draw(0), "7")
        return
    assert len(ensure_vector_indexes(store, "test").built) == 1
    run(many, "UPDATE public.agents SET is_active = false WHERE status = '9'")
    queries = [draw(number) for number in range(50)]
    found = [[row[1] for row in search(many, query)] for query in queries]
    exact = [nearest(many, query) for query in queries]
    hits = sum(len(set(row) & set(wanted)) for row, wanted in zip(found, exact, strict=True))
    assert hits >= 0.99 * K * len(queries)
    # Where the index misses none, the order is that of the exact comparison.
    complete = [(row, wanted) for row, wanted in zip(found, exact, strict=True) if set(row) == set(wanted)]
    assert all(row == wanted for row, wanted in complete)
    for query in queries[:10]:
        assert [row[1] for row in search(many, query, filters='{"status": "7"}')] == nearest(many, query, "7")
    with session_as(many, "authenticated", STRANGER) as connection:
        plan = connection.execute(
            "EXPLAIN SELECT agent_id FROM public.agent_embeddings WHERE model = 'model'"
            " ORDER BY embedding::halfvec(8) <=> %s::real[]::halfvec(8) LIMIT 100",
            [queries[0]],
        ).fetchall()
    assert any("agent_embeddings_hnsw_" in line for (line,) in plan)
    # The index gives up before it comes to an agent that is not hidden or filtered out.
    run(many, "UPDATE public.agents SET is_active = false WHERE id = ANY (%s)", nearest(many, queries[0], most=5_000))
    run(many, f"ALTER DATABASE {conninfo_to_dict(many)['dbname']} SET hnsw.max_scan_tuples = 1")
    wanted = nearest(many, queries[0])
    assert [row[1] for row in search(many, queries[0])] == wanted
    assert [row[1] for row in search(many, queries[0], user=OWNER, filters='{"is_active": true}')] == wanted
