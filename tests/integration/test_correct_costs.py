"""The cost of an event that is corrected, by the price list and by the caller."""

from __future__ import annotations

from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.corrections import check_corrected, correct_one, corrected, count, use
from tests.integration.database import run
from usage_worker.errors import ArgumentError
from usage_worker.maintenance.reconcile import reconcile

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import IngestHarness
    from usage_worker.service.resources import Resources

LIST = f"genai-prices {version('genai-prices')}"
LEDGER = "SELECT cost_usd, cost_source, tokens FROM public.usage_events WHERE event_id = %s"


@pytest.mark.parametrize("fields", [{}, {"model": "gpt-4o", "provider": "openai"}])
def test_prices(harness: IngestHarness, database: str, fields: dict[str, Any]) -> None:
    event, given = use(harness, input_tokens=1_000, **fields), use(harness, input_tokens=1_000, cost_usd=1, **fields)
    count(harness, event, given)
    corrected(harness, event, output_tokens=10)
    corrected(harness, given, output_tokens=10)
    priced = (Decimal("0.0026"), LIST) if fields else (None, "unknown")
    assert run(database, LEDGER, event["event_id"])[0] == (*priced, 1_010)
    assert run(database, LEDGER, given["event_id"])[0] == (1, "caller", 1_010)
    correct_one(harness, given, cost_usd=None)
    assert run(database, LEDGER, given["event_id"])[0][:2] == priced
    correct_one(harness, event, model=None)
    assert run(database, LEDGER, event["event_id"])[0][:2] == (None, "unknown")
    total = "SELECT coalesce(sum(total_cost_usd), 0) FROM public.user_agents"
    assert run(database, total) == [(priced[0] or 0,)]
    assert reconcile(harness.resources.store, harness.resources.settings).differences == []


def test_cost_unknown_and_back(harness: IngestHarness, database: str) -> None:
    event, other = use(harness, cost_usd="0.5"), use(harness, cost_usd="0.0000000001")
    count(harness, event, other)
    for cost in (None, "0.5", 0, None):
        event = corrected(harness, event, cost_usd=cost)
        check_corrected(harness, [event, other])
        known = (None, "unknown", 0) if cost is None else (Decimal(cost), "caller", 0)
        assert run(database, LEDGER, event["event_id"]) == [known]


def test_cost_that_no_longer_fits_needs_the_price_list(
    harness: IngestHarness, make_resources: Callable[..., Resources], database: str
) -> None:
    event = use(harness, input_tokens=1_000, model="gpt-4o", provider="openai")
    count(harness, event)
    harness.resources = make_resources(DATABASE_URL=database, prices="off")
    with pytest.raises(ArgumentError, match=f"cost_usd: is the one of {LIST}, which is not installed here or switched"):
        correct_one(harness, event, input_tokens=2_000)
    assert run(database, LEDGER, event["event_id"]) == [(Decimal("0.0025"), LIST, 1_000)]
    correct_one(harness, event, messages=2, response_time_ms=7, success=False)
    correct_one(harness, event, input_tokens=2_000, cost_usd=None)
    assert run(database, LEDGER, event["event_id"]) == [(None, "unknown", 2_000)]
    # It was known to nobody, and stays so.
    correct_one(harness, event, input_tokens=3_000)
    assert run(database, LEDGER, event["event_id"]) == [(None, "unknown", 3_000)]
    assert reconcile(harness.resources.store, harness.resources.settings).differences == []
