"""The cost of a single use by the price list, for an event that is corrected."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from usage_worker.events.columns import DECIMALS, NAMES
from usage_worker.events.event import microseconds
from usage_worker.ingest.event_array import UNKNOWN, TextTable, array_of
from usage_worker.ingest.packs import columns_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usage_worker.ingest.prices import Prices


class OnePrice:
    """The price list for one use at a time; `source` names it, None where there is none."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices
        self.source = prices.source

    def cost_of(self, fields: Mapping[str, Any]) -> Decimal | None:
        """Return what workers would fill in as the cost of a use, in US dollars; None where they would leave it."""
        unpriced = {"occurred_at": microseconds(fields["occurred_at"]), "cost_usd": None}
        row = tuple({**fields, **unpriced}[name] for name in NAMES)
        texts = TextTable()
        events = array_of([columns_of([row], texts)])
        self._prices.fill(events, texts)
        units = int(events["cost_usd"][0])
        return None if units == UNKNOWN else Decimal(units).scaleb(-DECIMALS)
