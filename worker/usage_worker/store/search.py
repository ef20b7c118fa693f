"""Search over agents: the models, the vectors of agents, and what is missing of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from psycopg.rows import class_row

from usage_worker.errors import ObstacleError
from usage_worker.printable import REASON_LENGTH, printable
from usage_worker.store.access import act_as_user
from usage_worker.store.queries import query
from usage_worker.store.task_runs import sole_transaction

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from psycopg.errors import Diagnostic

    from usage_worker.store.connection import Store

LONGEST_TEXT = 8_000
"""Characters of a text, or of a query, that are embedded: any model reads less, and a service refuses more."""

LONGEST_QUERY = 10_000
"""Characters of a query that `search_agents` takes."""

LONGEST_NAME = 255
GREATEST_DIMENSION = 16_000

ModelState = Literal["filling", "ready", "retired"]


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """A model whose vectors are kept.

    Attributes:
        model: its name.
        dimension: the number of elements of its vectors.
        state: `filling` until every agent has a vector; `retired` is not searched.
        is_default: whether a search that names no model uses it.
    """

    model: str
    dimension: int
    state: ModelState
    is_default: bool


@dataclass(frozen=True, slots=True)
class EmbeddingStatus(EmbeddingModel):
    """A model and the number of agents with a vector of their present text, and without one.

    Attributes:
        agents: all agents; 0 for a retired model.
        embedded: those with a vector of their present text.
        failed: those whose text could not be embedded; each is tried again.
        pending: the others.
    """

    agents: int
    embedded: int
    failed: int
    pending: int


class AgentText(NamedTuple):
    """The text of an agent that has no vector yet, and the hash that its vector will have."""

    agent_id: UUID
    text: str
    content_hash: bytes


class Embedding(NamedTuple):
    """A vector of length 1, of the text with this hash."""

    agent_id: UUID
    content_hash: bytes
    vector: Sequence[float]


class FoundAgent(NamedTuple):
    """An agent that a search found.

    `similarity` is the cosine, None where only words or the name match; `matched_by` holds `vector`, `text` and `name`.
    Where no agent `is_close`, the store has nothing like what was asked for.
    """

    rank: int
    agent_id: UUID
    name: str
    score: float
    similarity: float | None
    matched_by: list[str]
    is_close: bool


class Found(NamedTuple):
    """What a search found; `limit` says why the vector was left out, empty where it was not."""

    agents: list[FoundAgent]
    limit: str


def embedding_models(store: Store) -> list[EmbeddingModel]:
    """Return all models by name."""
    return [EmbeddingModel(**row) for row in store.rows(query("embedding_models"))]


def add_model(store: Store, model: str, dimension: int) -> None:
    """Add a model that is not there yet; one that was retired is filled again.

    Raises:
        ObstacleError: its name is too long or its dimension out of bounds, or it is there with another dimension: its
            vectors would not be comparable.
    """
    if not (1 <= len(model) <= LONGEST_NAME and 1 <= dimension <= GREATEST_DIMENSION):
        bounds = f"a name of 1 to {LONGEST_NAME} characters and 1 to {GREATEST_DIMENSION:,} dimensions"
        raise ObstacleError(f"a model has {bounds}, not {len(model)} and {dimension:,}")
    with store.connection() as connection:
        connection.execute(query("add_embedding_model"), {"model": model, "dimension": dimension})
    (kept,) = (kept for kept in embedding_models(store) if kept.model == model)
    if kept.dimension != dimension:
        raise ObstacleError(f"the model {model} is kept with another dimension; give it another name")


def set_model_ready(store: Store, model: str) -> None:
    """Let searches use a model; it becomes the default if there is none."""
    with store.connection() as connection:
        connection.execute(query("set_model_ready"), {"model": model})


def set_default_model(store: Store, model: str) -> bool:
    """Make a ready model the default; return False, and change nothing, where it is not ready."""
    with store.connection() as connection, connection.transaction() as transaction:
        connection.execute(query("clear_default_model"), {"model": model})
        changed = connection.execute(query("set_default_model"), {"model": model}).rowcount == 1
        transaction.force_rollback = not changed
        return changed


def retire_model(store: Store, model: str) -> int:
    """Retire a model and delete its vectors. Returns the number deleted."""
    with store.connection() as connection:
        connection.execute(query("retire_model"), {"model": model})
        return connection.execute(query("delete_embeddings"), {"model": model}).rowcount


def stale_agents(store: Store, model: str, limit: int) -> list[AgentText]:
    """Return up to `limit` agents without a vector of their present text, except failures that wait."""
    rows = store.long_rows(
        query("agent_texts") + "\n" + query("stale_agents"), model=model, limit=limit, longest=LONGEST_TEXT
    )
    return [AgentText(**row) for row in rows]


def store_embeddings(store: Store, model: str, embeddings: Sequence[Embedding]) -> int:
    """Write vectors, and forget the failures of their agents. Returns the number written: not those of deleted agents.

    Raises:
        DataRefusedError: a vector has another dimension than the model, a length other than 1, or is not finite.
        ReferenceMissingError: an agent was deleted meanwhile; try it again.
    """
    parameters = {
        "model": model,
        "agents": [embedding.agent_id for embedding in embeddings],
        "hashes": [embedding.content_hash for embedding in embeddings],
        "embeddings": [f"{{{','.join(map(repr, embedding.vector))}}}" for embedding in embeddings],
    }
    with store.connection() as connection:
        return connection.execute(query("store_embeddings"), parameters).rowcount


def set_aside(store: Store, model: str, text: AgentText, error: str) -> None:
    """Keep a text that could not be embedded from being tried again at once; `error` must not quote it."""
    parameters = {
        "model": model,
        "agent_id": text.agent_id,
        "content_hash": text.content_hash,
        "error": printable(error, REASON_LENGTH),
    }
    with store.connection() as connection:
        connection.execute(query("set_aside"), parameters)


def embedding_status(store: Store) -> list[EmbeddingStatus]:
    """Return what each model has and lacks, by name."""
    return [EmbeddingStatus(**row) for row in store.long_rows(query("agent_texts") + "\n" + query("embedding_status"))]


def refresh_quality(store: Store, task: str) -> int | None:
    """Compute the quality of agents with enough users, once a UTC day.

    Returns:
        The number of these agents; None if it was not due.

    Raises:
        BusyError: another process does it.
    """
    with sole_transaction(store, task) as connection:
        if connection.execute(query("agent_quality_is_due")).fetchone() == (False,):
            return None
        return connection.execute(query("refresh_agent_quality")).rowcount


def search_agents(
    store: Store,
    vector: Sequence[float] | None,
    text: str | None,
    k: int,
    *,
    model: str | None = None,
    user_id: UUID | None = None,
) -> Found:
    """Search as a user, or as this role, by a vector, a text or both; find at most `k` agents, best first.

    Raises:
        DataRefusedError: an argument is out of its range; the message names it.
    """
    parameters = {
        "vector": None if vector is None else list(vector),
        "text": text,
        "k": k,
        "filters": "{}",
        "model": model,
    }
    limits: list[str] = []

    def keep(notice: Diagnostic) -> None:
        # By its name: PostgreSQL says with the same SQLSTATE that a word is too long to be indexed.
        name, _, limit = (notice.message_primary or "").partition(": ")
        if name == "search_agents":
            limits.append(limit.partition(";")[0])

    with store.connection() as connection, connection.cursor(row_factory=class_row(FoundAgent)) as cursor:
        if user_id:
            act_as_user(connection, user_id)
        connection.add_notice_handler(keep)
        try:
            agents = cursor.execute(query("search_agents"), parameters).fetchall()
        finally:
            connection.remove_notice_handler(keep)
    return Found(agents, "".join(limits))
