"""Locks: who holds what a worker waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usage_worker.monitoring.check import fail
from usage_worker.monitoring.inspection import POSTGRESQL, Section
from usage_worker.printable import REASON_LENGTH, printable
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection


def _locks(inspection: Inspection) -> Iterator[Check]:
    # A flush counts what it can and passes over rows that others hold: their entries then wait.
    for holder in inspection.store.rows(query("blocking_sessions"), rows=inspection.figures.is_waiting):
        yield fail("locks", _described(holder), _remedy(holder))


def _remedy(holder: dict[str, Any]) -> str:
    if holder["pid"] is None:
        return f"as its owner, COMMIT PREPARED or ROLLBACK PREPARED {printable(repr(holder['gid']), REASON_LENGTH)}"
    return f"end that transaction, or SELECT pg_terminate_backend({holder['pid']})"


def _described(holder: dict[str, Any]) -> str:
    """Describe the holder and the lock, without the statement, which may name users."""
    kind = "a prepared transaction" if holder["pid"] is None else f"pid {holder['pid']}"
    who = f"{kind}, role {printable(holder['role'] or 'unknown')}"
    if holder["application"]:
        who += f", {printable(holder['application'])}"
    since = "" if holder["seconds"] is None else f" for {holder['seconds']:.0f} s"
    state = f" ({holder['state']})" if holder["state"] else ""
    return f"{who} holds a lock on {holder['relation']}{since}{state}"


LOCKS = Section(("locks",), _locks, needs=(POSTGRESQL,))
