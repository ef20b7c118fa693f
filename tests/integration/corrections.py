"""Corrections in tests: the events as they should be, and what all totals must then be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tests.integration.database import run
from usage_worker.events.external_ids import external_ids
from usage_worker.ingest import forget_key_of
from usage_worker.ingest.one_price import OnePrice
from usage_worker.ingest.prices import Prices
from usage_worker.maintenance.correct import correct, find_event
from usage_worker.maintenance.corrected_event import Edits
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.testing.oracle import Oracle
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from tests.integration.conftest import IngestHarness
    from usage_worker.maintenance.correct import Correction

LAST = "SELECT user_id, agent_id, last_conversation_id, last_conversation_at FROM public.user_agents"
NEGATIVE = "SELECT * FROM public.usage_daily WHERE conversation_count < 0"
HISTORY = "SELECT changes, reason, actor_role FROM public.usage_corrections WHERE event_id = %s ORDER BY id"
USES = "SELECT usage_count, conversation_count, last_conversation_id FROM public.user_agents WHERE user_id = %s"

NOW = datetime.now(UTC)


def use(harness: IngestHarness, ago: int = 60, user: int = 0, **fields: Any) -> dict[str, Any]:
    """Return a use some seconds ago."""
    pair = {"user_id": harness.users[user], "agent_id": harness.agents[0]}
    return {"event_id": uuid4(), "occurred_at": NOW - timedelta(seconds=ago), **pair, **fields}


def count(harness: IngestHarness, *events: dict[str, Any]) -> None:
    harness.publish(*events, counted=False)
    assert harness.flush().applied == len(events)


def correct_one(
    harness: IngestHarness,
    event: dict[str, Any],
    *,
    reason: str | None = None,
    at: datetime | None = None,
    **fields: object,
) -> Correction:
    """Correct an event in the database; values are given as on the command line."""
    store, settings = harness.resources.store, harness.resources.settings
    ids = external_ids(settings.id_namespace) if settings.takes_any_id else None
    edits = Edits(texts(fields), OnePrice(Prices(settings.prices)), ids)
    found = find_event(store, str(event["event_id"]), at, settings.retention_days)
    return correct(store, found, edits, reason, forget_key_of(settings))


def corrected(harness: IngestHarness, event: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Correct an event; return it as it is then."""
    assert correct_one(harness, event, **fields).changes
    return with_fields(event, fields)


def texts(fields: dict[str, object]) -> dict[str, str | None]:
    return {name: None if value is None else str(value) for name, value in fields.items()}


def with_fields(event: dict[str, Any], fields: dict[str, object]) -> dict[str, Any]:
    """Return the event as it would have been published; an unknown value is left out."""
    corrected = event | fields
    return {name: value for name, value in corrected.items() if value is not None}


def check_corrected(harness: IngestHarness, events: Iterable[dict[str, Any]]) -> None:
    """Assert that all totals are those of the events as they are now, each of which was counted once."""
    events = list(events)
    oracle = Oracle()
    for event in events:
        oracle.add(event)
    store, settings = harness.resources.store, harness.resources.settings
    assert oracle.differences(store.rows(testing_query("counters"))) == []
    assert store.rows(testing_query("unbalanced")) == []
    assert reconcile(store, settings).differences == []
    url = settings.database_url
    found = {row[:2]: row[2:] for row in run(url, LAST)}
    assert found == {pair: last_conversation(events, pair) for pair in oracle.rows}
    assert run(url, NEGATIVE) == []


def last_conversation(events: Iterable[dict[str, Any]], pair: tuple[UUID, UUID]) -> tuple[Any, Any]:
    """Return the newest conversation of a pair's uses, and its time."""
    named = [
        (event["occurred_at"].astimezone(UTC), event["conversation_id"])
        for event in events
        if (event["user_id"], event["agent_id"]) == pair
        and event.get("conversation_id") is not None
        and event.get("type") != "rating"
    ]
    at, conversation = max(named, default=(None, None))
    return conversation, at
