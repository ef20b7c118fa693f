"""pgvector's indexes on the vectors of agents, which make a search over many agents fast; search works without them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from usage_worker.postgres import one_line
from usage_worker.store.connection import dict_rows
from usage_worker.store.queries import query
from usage_worker.store.task_runs import limit_only_lock_waits, sole_transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.postgres import Connection
    from usage_worker.store.connection import Store

EXACT_ROWS = 20_000
"""Up to as many agents `search_agents` compares all vectors."""

UNAIDED_AGENTS = 5_000
"""Up to as many agents `search_agents` compares vectors without pgvector."""

GREATEST_INDEXED_DIMENSION = 4_000
"""The greatest dimension of halves that pgvector can index."""

# A concurrent build waits for each transaction that is older, and the other tasks of this process wait for the build.
LOCK_TIMEOUT = "5min"


@dataclass(slots=True)
class VectorIndexReport:
    """The indexes that were built and dropped, those where that failed, and why there is no other, where that is so."""

    built: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def ensure_vector_indexes(
    store: Store, task: str, rows: int = EXACT_ROWS, unaided: int = UNAIDED_AGENTS, *, may_alter: bool = True
) -> VectorIndexReport:
    """Create the extension for more than `unaided` agents, and index the vectors of each model with more than `rows`.

    An index that is invalid, or of a retired model, is dropped. Without `may_alter` no index is built or dropped.

    A build takes minutes, in which agents and vectors can be written. A build or a drop that waits too long for an
    older transaction is reported in `failed`. The lock of the task is held meanwhile by a transaction without a
    snapshot, which a concurrent build does not wait for.

    Raises:
        BusyError: another process does it.
    """
    report = VectorIndexReport()
    with sole_transaction(store, task) as holder, store.session() as session:
        holder.execute(query("keep_task_lock"))
        if not store.pooled:  # the session may be another's next
            limit_only_lock_waits(session, LOCK_TIMEOUT, in_transaction=False)
        found = _vector_indexes(session, rows) if may_alter else []
        for index in found:
            if index["valid"] is False or (index["valid"] and index["retired"]):
                _drop(session, index, report)
        wanted = [index for index in found if index["wanted"] and index["valid"] is None]
        note = _ensure_extension(session, min(unaided, rows))
        if note:
            report.notes.append(note)
        elif wanted:
            schema = _vector_indexes(session, rows)[0]["schema"]
            for index in wanted:
                _build(session, {**index, "schema": schema}, report)
    return report


@contextmanager
def _noting_failure(session: Connection, name: str, report: VectorIndexReport) -> Iterator[None]:
    """Note an error that leaves the session usable: searches work without the index."""
    try:
        yield
    except psycopg.DatabaseError as error:
        if session.closed:
            raise
        report.failed.append(name)
        report.notes.append(f"the index {name} could not be built or dropped: {one_line(error)}")


def _drop(session: Connection, index: dict[str, Any], report: VectorIndexReport) -> None:
    with _noting_failure(session, index["name"], report):
        _alter(session, "drop_vector_index", index=sql.Identifier(index["name"]))
        report.dropped.append(index["name"])
        index["valid"] = None


def _build(session: Connection, index: dict[str, Any], report: VectorIndexReport) -> None:
    if index["dimension"] > GREATEST_INDEXED_DIMENSION:
        report.notes.append(
            f"{index['model']} has more than {GREATEST_INDEXED_DIMENSION:,} dimensions, which no index can hold"
        )
        return
    with _noting_failure(session, index["name"], report):
        _alter(
            session,
            "create_vector_index",
            index=sql.Identifier(index["name"]),
            schema=sql.Identifier(index["schema"]),
            dimension=sql.Literal(index["dimension"]),
            model=sql.Literal(index["model"]),
        )
        report.built.append(index["name"])


def _ensure_extension(session: Connection, agents: int) -> str | None:
    """Create the extension where more than `agents` need it; return why searches cannot use it."""
    (found,) = dict_rows(session, query("pgvector"), {"agents": agents})
    if not found["needed"]:
        return None
    if found["is_new_enough"] is None:
        return "the server has no extension vector (pgvector)"
    if not found["is_new_enough"]:
        return "the extension vector (pgvector) is older than 0.8, which searches need"
    try:
        if not found["installed"]:
            _alter(session, "create_pgvector", schema=sql.Identifier(found["schema"]))
    except psycopg.errors.InsufficientPrivilege:
        return "the extension vector is available, and this role may not create it; a superuser runs CREATE EXTENSION"
    if not found["is_open"]:
        schema = found["schema"]
        return f"authenticated may not use the schema {schema}, where the extension vector is; run GRANT USAGE"
    return None


def _vector_indexes(session: Connection, rows: int) -> list[dict[str, Any]]:
    return dict_rows(session, query("vector_indexes"), {"rows": rows})


def _alter(session: Connection, name: str, **names: sql.Composable) -> None:
    session.execute(sql.SQL(query(name)).format(**names))
