"""What cannot be counted, and how a batch keeps it."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from usage_worker.postgres import OUTAGES, translated
from usage_worker.store.byte_pages import in_pages
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from usage_worker.postgres import Connection

_NOT_ASCII = re.compile(r"[^\x01-\x7f]")


class DeadLetter(NamedTuple):
    """An event, or a whole unreadable entry, that cannot be counted, and why."""

    entry_key: UUID
    position: int
    stream: str
    entry_id: str
    events: int
    reason: str
    payload: str


def quarantine(connection: Connection, dead_letters: Sequence[DeadLetter]) -> Counter[str]:
    """Insert dead letters in the open transaction; what PostgreSQL refuses, whatever it contains, is kept in ASCII.

    Returns:
        The number of events in those that were not in the quarantine before, by reason.
    """
    # By size alone: PostgreSQL takes no statement of 1 GB, and each page is a subtransaction.
    pages = in_pages(dead_letters, lambda it: len(it.payload), most_rows=math.inf)
    return _sum(_keep(connection, page) for page in pages)


def _keep(connection: Connection, dead_letters: Sequence[DeadLetter], *, again: bool = False) -> Counter[str]:
    try:
        with translated(), connection.transaction():
            columns = dict(zip(DeadLetter._fields, map(list, zip(*dead_letters, strict=True)), strict=True))
            return Counter(dict(connection.execute(query("insert_dead_letters"), columns).fetchall()))
    except OUTAGES:
        raise
    except Exception:
        if not again:
            return _keep(connection, list(map(_in_ascii, dead_letters)), again=True)
        middle = len(dead_letters) // 2
        if not middle:
            raise
        halves = dead_letters[:middle], dead_letters[middle:]
        return _sum(_keep(connection, half, again=True) for half in halves)


def _sum(parts: Iterable[Counter[str]]) -> Counter[str]:
    return sum(parts, Counter())


def _in_ascii(dead_letter: DeadLetter) -> DeadLetter:
    """Escape everything outside ASCII as JSON does, so that a JSON payload keeps its meaning."""
    reason, payload = (
        _NOT_ASCII.sub(lambda it: json.dumps(it[0])[1:-1], it) for it in (dead_letter.reason, dead_letter.payload)
    )
    return dead_letter._replace(reason=reason, payload=payload)
