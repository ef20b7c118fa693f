"""Sessions of PostgreSQL that are lent again: to open one takes ten times as long as a statement of a test."""

from __future__ import annotations

import select
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

Session = psycopg.Connection[tuple[Any, ...]]

_free: list[tuple[str, Session]] = []


@contextmanager
def lent_session(url: str) -> Iterator[Session]:
    """Lend a session in autocommit as it was opened; what has since been set for roles and databases has no effect."""
    session = _taken(url) or psycopg.connect(url, autocommit=True, prepare_threshold=None)
    try:
        yield session
    finally:
        _give_back(url, session)


def close_free_sessions() -> None:
    """Close what nobody has: a database with sessions cannot be copied."""
    while _free:
        _free.pop()[1].close()


def _taken(url: str) -> Session | None:
    """Take a free session that still works."""
    for lent in [lent for lent in _free if lent[0] == url]:
        with suppress(ValueError):  # another thread has just taken it
            _free.remove(lent)
            if _works(lent[1]):
                return lent[1]
            lent[1].close()
    return None


def _give_back(url: str, session: Session) -> None:
    with suppress(psycopg.Error):
        if session.info.transaction_status == TransactionStatus.IDLE:
            session.execute("DISCARD ALL")
            _free.append((url, session))
            return
    session.close()


def _works(session: Session) -> bool:
    """Return whether the server has said nothing since, which could only be that it has ended the session."""
    return not select.select([session], [], [], 0)[0]
