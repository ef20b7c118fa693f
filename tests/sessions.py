"""Sessions of PostgreSQL that are lent again: to open one takes ten times as long as a statement of a test."""

from __future__ import annotations

import select
from collections import defaultdict
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

Session = psycopg.Connection[tuple[Any, ...]]

# By URL.
_free: defaultdict[str, list[Session]] = defaultdict(list)


@contextmanager
def lent_session(url: str) -> Iterator[Session]:
    """Lend a session in autocommit, like a new one but for what was set for its role or database meanwhile."""
    session = _taken(url) or psycopg.connect(url, autocommit=True, prepare_threshold=None)
    try:
        yield session
    finally:
        _give_back(url, session)


def close_free_sessions() -> None:
    """Close the sessions that nobody has: a database with sessions cannot be copied."""
    for sessions in _free.values():
        while sessions:
            sessions.pop().close()


def _taken(url: str) -> Session | None:
    """Take a free session that still works, if there is one."""
    with suppress(IndexError):
        while True:
            session = _free[url].pop()
            if _works(session):
                return session
            session.close()
    return None


def _give_back(url: str, session: Session) -> None:
    with suppress(psycopg.Error):
        if session.info.transaction_status == TransactionStatus.IDLE:
            session.execute("DISCARD ALL")
            _free[url].append(session)
            return
    session.close()


def _works(session: Session) -> bool:
    """Return whether the server has sent nothing since, which could only be that it has ended the session."""
    return not select.select([session], [], [], 0)[0]
