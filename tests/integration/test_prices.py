"""Costs from the price list, from the producers to the ledger, the roll-up and the counters."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.integration.database import run
from usage_worker.events.event import identity_of
from usage_worker.maintenance import dead_letters
from usage_worker.maintenance.dead_letter_choice import DeadLetterFilter
from usage_worker.maintenance.dead_letters import RepairEdits, ReplayReport, replay
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.publisher import UsagePublisher
from usage_worker.store.intake import Intake

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import IngestHarness
    from usage_worker.service.resources import Resources

LIST = f"genai-prices {version('genai-prices')}"
LEDGER = "SELECT cost_usd, cost_source FROM public.usage_events WHERE event_id = %s"
SUMS = """
    SELECT (SELECT sum(total_cost_usd) FROM public.usage_daily), (SELECT sum(total_cost_usd) FROM public.user_agents),
           (SELECT sum(cost_usd) FROM public.usage_events WHERE type = 'usage')
"""
# US dollars for a token of gpt-4o: input, cached input, output.
INPUT, CACHED, OUTPUT = Decimal("2.5E-6"), Decimal("1.25E-6"), Decimal("10E-6")
TOKENS = {"provider": "openai", "model": "gpt-4o", "input_tokens": 1_001, "output_tokens": 13}
COST = 1_001 * INPUT + 13 * OUTPUT
CASES: dict[str, tuple[dict[str, Any], Decimal | None, str | None]] = {
    "a known model": (TOKENS, COST, LIST),
    "cached tokens": (TOKENS | {"cached_input_tokens": 800}, COST - 800 * (INPUT - CACHED), LIST),
    "an unknown model": (TOKENS | {"model": "my-finetune"}, None, "unknown"),
    "an unknown provider": (TOKENS | {"provider": "my-gateway"}, None, "unknown"),
    "no model": ({"input_tokens": 5}, None, "unknown"),
    "no tokens": ({"model": "gpt-4o"}, None, "unknown"),
    "a cost": (TOKENS | {"cost_usd": "0.0000000001"}, Decimal("1E-10"), "caller"),
    "a cost of 0": (TOKENS | {"cost_usd": 0}, Decimal(0), "caller"),
    "a rating": ({"type": "rating", "rating": 5, "model": "gpt-4o"}, None, None),
}


def event(harness: IngestHarness, **fields: Any) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    pair = {"user_id": str(harness.users[0]), "agent_id": str(harness.agents[0])}
    return {"event_id": str(uuid4()), "occurred_at": now, **pair, **fields}


@pytest.mark.parametrize("by", ["publisher", "XADD"])
def test_cost_and_its_source(harness: IngestHarness, database: str, by: str) -> None:
    events = {name: event(harness, **fields) for name, (fields, _, _) in CASES.items()}
    if by == "publisher":
        harness.publish(*events.values(), counted=False)
    else:
        harness.xadd(json.dumps([*events.values()]), shard=harness.resources.stream.shard_of(harness.users[0]))
    for name, (_, cost, _) in CASES.items():
        harness.oracle.add(events[name] | ({} if cost is None else {"cost_usd": cost}))
    assert harness.flush() == Intake(len(CASES), len(CASES), 0, 0)
    found = {name: run(database, LEDGER, events[name]["event_id"])[0] for name in CASES}
    assert found == {name: (cost, source) for name, (_, cost, source) in CASES.items()}
    harness.check()
    total = sum(cost for _, cost, _ in CASES.values() if cost)
    assert run(database, SUMS) == [(total, total, total)]
    assert reconcile(harness.resources.store, harness.resources.settings).differences == []


def test_first_of_two_lists_wins(
    harness: IngestHarness, database: str, make_resources: Callable[..., Resources]
) -> None:
    sent = event(harness, **TOKENS)
    harness.publish(sent)
    make_resources(prices="off").flusher.flush(harness.resources.stream.shard_of(harness.users[0]))
    harness.publish(sent)
    assert harness.flush() == Intake(1, 0, 1, 0)
    assert run(database, LEDGER, sent["event_id"]) == [(None, "unknown")]
    harness.check()


def test_event_that_gets_its_first_time_has_the_price_of_then(harness: IngestHarness, database: str) -> None:
    """A million input tokens of deepseek-chat cost 0.27 US dollars from 00:30 to 16:30, and 0.135 in the night."""
    yesterday = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    costs = {yesterday + timedelta(hours=12): Decimal("0.27"), yesterday + timedelta(hours=20): Decimal("0.135")}
    sent = [event(harness, event_id=f"order-{number}", provider="deepseek", model="deepseek-chat") for number in (0, 1)]
    for it, first in zip(sent, costs, strict=True):
        del it["occurred_at"]
        it["input_tokens"] = 1_000_000
        statement = "INSERT INTO public.usage_event_keys (key, occurred_at) VALUES (%s, %s)"
        run(database, statement, identity_of(it["event_id"]), first)
    harness.xadd(json.dumps(sent))
    assert harness.flush() == Intake(2, 2, 0, 0)
    assert run(database, "SELECT occurred_at, cost_usd FROM public.usage_events ORDER BY 1") == list(costs.items())


def test_replayed_dead_letter_is_priced(harness: IngestHarness, database: str) -> None:
    unknown = str(uuid4())
    sent = event(harness, **TOKENS, user_id=unknown)
    harness.publish(sent, counted=False)
    assert harness.flush() == Intake(1, 0, 0, 1)
    store = harness.resources.store
    rows = list(dead_letters.matching_dead_letters(store, DeadLetterFilter()))
    assert "cost_usd" not in json.loads(rows[0]["payload"])
    edits = RepairEdits({"user_id": str(harness.users[0])})
    with UsagePublisher(harness.resources.settings.redis_url, linger=0) as publisher:
        report = replay(store, publisher, rows, edits, harness.resources.settings, lambda *_: None)
    assert report == ReplayReport(sent=1, bad=0)
    assert harness.flush() == Intake(1, 1, 0, 0)
    assert run(database, LEDGER, sent["event_id"]) == [(COST, LIST)]


def test_event_cannot_name_its_source(harness: IngestHarness) -> None:
    harness.xadd(json.dumps([event(harness, cost_usd=1, cost_source="caller")]))
    assert harness.flush() == Intake(1, 0, 0, 1)
    assert [it["reason"] for it in harness.dead_letters()] == ["cost_source: Extra inputs are not permitted"]
