"""Agents with vectors, and searches as a user."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tests.integration.database import run
from tests.integration.users import session_as
from usage_worker.store.search import Embedding, add_model, set_model_ready, stale_agents, store_embeddings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.store.connection import Store

DIMENSION = 8
OWNER, STRANGER = UUID(int=1), UUID(int=2)


def add_agents(url: str, *names: str, description: str = "", active: bool = True) -> list[UUID]:
    """Add agents of the owner; return their ids."""
    run(url, "INSERT INTO auth.users (id) VALUES (%s), (%s) ON CONFLICT DO NOTHING", OWNER, STRANGER)
    insert = """
        INSERT INTO public.agents (name, description, created_by, is_active)
        SELECT name, %s, %s, %s FROM unnest(%s::text[]) AS name RETURNING id
    """
    return [row[0] for row in run(url, insert, description, OWNER, active, list(names))]


def draw(number: int) -> list[float]:
    """Return a vector of length 1 that depends on the number alone."""
    chance = random.Random(number)
    vector = [chance.gauss(0, 1) for _ in range(DIMENSION)]
    return [element / math.hypot(*vector) for element in vector]


def embed(store: Store, model: str = "model") -> dict[UUID, list[float]]:
    """Give each agent without one a vector, in the order of the texts; return the vectors."""
    add_model(store, model, DIMENSION)
    texts = sorted(stale_agents(store, model, 10_000), key=lambda text: text.text)
    vectors = {text.agent_id: draw(number) for number, text in enumerate(texts)}
    store_embeddings(store, model, [Embedding(t.agent_id, t.content_hash, vectors[t.agent_id]) for t in texts])
    set_model_ready(store, model)
    return vectors


def search(
    url: str, query: Sequence[float] | None = None, text: str | None = None, user: UUID = STRANGER, **named: Any
) -> list[tuple[Any, ...]]:
    """Search as a user; return the rows of `search_agents`."""
    given = "".join(f", p_{name} => %({name})s" for name in named)
    statement = f"SELECT * FROM public.search_agents(%(query)s::real[], %(text)s{given}) ORDER BY rank"
    vector = None if query is None else list(query)
    with session_as(url, "authenticated", user) as connection:
        return connection.execute(statement.encode(), {"query": vector, "text": text, **named}).fetchall()


def names(rows: list[tuple[Any, ...]]) -> list[str]:
    return [row[2] for row in rows]


def exact(query: Sequence[float], vectors: dict[UUID, list[float]], k: int) -> list[UUID]:
    """Return the agents with the greatest dot products."""
    return sorted(vectors, key=lambda agent: -sum(x * y for x, y in zip(query, vectors[agent], strict=True)))[:k]


def has_pgvector(url: str) -> bool:
    return bool(run(url, "SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"))
