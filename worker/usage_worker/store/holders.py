"""The beginning of a transaction that locks rows, and who holds what it waits for."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from usage_worker.errors import LockHeldError
from usage_worker.postgres import translated
from usage_worker.printable import printable
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from usage_worker.postgres import Connection


class Limits(NamedTuple):
    """How many milliseconds a transaction waits for a lock, and the administrator's time limits in words."""

    lock_timeout_ms: int
    time_limits: str


class Holder(NamedTuple):
    """Who has what a transaction waits for, as far as our role may see it."""

    pid: int | None
    is_ours: bool
    role: str | None
    state: str | None
    seconds: int | None

    def __str__(self) -> str:
        program = "usage-worker" if self.is_ours else None
        seconds = None if self.seconds is None else f"{self.seconds} s"
        parts = [program, self.role and f"role {self.role}", self.state, seconds]
        who = "a prepared transaction" if self.pid is None else f"pid {self.pid}"
        return f"{who} ({printable(', '.join(filter(None, parts)))})"


def begin(connection: Connection) -> Limits:
    """Begin a transaction that locks rows of counters."""
    cursor = connection.execute(query("begin"))
    while cursor.nextset():
        pass
    row = cursor.fetchone()
    assert row is not None  # noqa: S101 - the last statement returns exactly one
    return Limits(row[0], row[2])


def holders(connection: Connection) -> str:
    """Describe who may hold what the transaction waited for, as far as our role may see it."""
    return held_by(Holder(*row) for row in connection.execute(query("lock_holders"))) or "by now nobody holds it"


def held_by(found: Iterable[Holder]) -> str:
    """Name holders; returns an empty text where there are none."""
    named = " or ".join(map(str, found))
    return named and f"held by {named}"


@contextmanager
def naming_holders(connection: Connection) -> Iterator[None]:
    """Name who holds the lock for which the block has waited too long.

    Raises:
        LockHeldError: the block did not get a lock.
    """
    try:
        with translated(), connection.transaction():
            yield
    except LockHeldError as error:
        raise LockHeldError(f"{error.detail}, {holders(connection)}") from error


@contextmanager
def short_lock_waits(connection: Connection) -> Iterator[None]:
    """Give up each lock after a moment, until the transaction ends: others wait for those that it has.

    Raises:
        LockHeldError: the block did not get a lock; the message names who holds it.
    """
    connection.execute(query("short_lock_timeout"))
    with naming_holders(connection):
        yield
