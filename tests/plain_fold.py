"""The fold in plain Python, which shares no code with ingest, and its rows as plain Python."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from usage_worker.events.columns import UNIT
from usage_worker.ingest.event_array import uuid_texts
from usage_worker.ingest.fold import NONE

if TYPE_CHECKING:
    from tests.event_arrays import PlainEvent
    from usage_worker.ingest.fold import Totals

Rows = dict[tuple[UUID, UUID, date | None], dict[str, Any]]
"""Rows of totals by user, agent and day; decimals in units of their last place."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SUMS = {
    "message_count": "messages",
    "success_count": "success",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_input_tokens": "cached_input_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "total_tokens_used": "tokens",
    "total_cost_usd": "cost_usd",
    "response_time_total_ms": "response_time_ms",
}


def sums(events: list[PlainEvent]) -> dict[str, int]:
    uses = [event for event in events if event.rating is None]
    added = {total: sum(getattr(event, name) or 0 for event in uses) for total, name in SUMS.items()}
    samples = sum(event.response_time_ms is not None for event in uses)
    return {"usage_count": len(uses), "response_time_samples": samples, **added}


def of_pair(events: list[PlainEvent]) -> dict[str, Any]:
    """Return what only rows of pairs have."""
    times = [event.occurred_at for event in events if event.rating is None]
    ratings = [(event.occurred_at, event.rating) for event in events if event.rating is not None]
    named = conversations(events)
    last_conversation_at, newest = max(named, default=(None, None))
    rated_at, rating = max(ratings, default=(None, 0))
    return {
        "first_used_at": min(times, default=None),
        "last_used_at": max(times, default=None),
        "last_conversation_at": last_conversation_at,
        "newest": newest,
        "rating": rating,
        "rated_at": rated_at,
    }


def conversations(events: list[PlainEvent]) -> list[tuple[datetime, UUID]]:
    return [(e.occurred_at, e.conversation_id) for e in events if e.conversation_id is not None and e.rating is None]


def plain_fold(events: list[PlainEvent]) -> Rows:
    pairs: dict[tuple[UUID, UUID], list[PlainEvent]] = {}
    for event in sorted(events, key=lambda event: event.occurred_at):
        pairs.setdefault((event.user_id, event.agent_id), []).append(event)
    rows: Rows = {}
    for pair, own in sorted(pairs.items()):
        days = sorted({event.occurred_at.date() for event in own})
        used: set[UUID] = set()
        for day in days:
            on_day = [event for event in own if event.occurred_at.date() == day]
            names = {name for _, name in conversations(on_day)}
            rows[*pair, day] = {**sums(on_day), **of_pair([]), "is_pair": False, "conversations": names - used}
            used |= names
        whole = {**sums(own), **of_pair(own), "is_pair": True, "conversations": used}
        rows[*pair, days[0] if len(days) == 1 else None] = whole
    return rows


def plain(totals: Totals) -> Rows:
    """Return the rows as plain Python, in their order."""
    assert totals.rows["conversations"].sum() == len(totals.conversations)
    ids = iter(map(UUID, uuid_texts(totals.conversations)))
    rows: Rows = {}
    for record in totals.rows:
        row = {name: record[name].tolist() for name in totals.rows.dtype.names or ()}
        listed = [next(ids) for _ in range(row["conversations"])]
        assert len(set(listed)) == len(listed)
        row["conversations"], row["newest"] = set(listed), listed[0] if row["is_pair"] and listed else None
        for name in ("total_cost_usd", "rating"):
            assert row[name][1] < UNIT
            row[name] = row[name][0] * UNIT + row[name][1]
        for name in ("first_used_at", "last_used_at", "last_conversation_at", "rated_at"):
            row[name] = None if row[name] == NONE else _EPOCH + timedelta(microseconds=row[name])
        pair = [UUID(int=high << 64 | low) for high, low in (row.pop("user_id"), row.pop("agent_id"))]
        day = row.pop("day")
        rows[pair[0], pair[1], None if day == NONE else _EPOCH.date() + timedelta(day)] = row
    assert len(rows) == len(totals.rows)
    return rows
