"""What an event of the ledger becomes when some of its fields are corrected, as if it had been published so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from usage_worker.errors import ArgumentError
from usage_worker.events.columns import CORRECTABLE, IDENTITY, LAST_TIME, NAMES
from usage_worker.events.event import Window
from usage_worker.events.wire import fields_of, prepare
from usage_worker.store.counters import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from usage_worker.events.external_ids import ExternalId, ExternalIds
    from usage_worker.store.correct import LedgerRow

CALLER, UNKNOWN_COST = "caller", "unknown"
_PRICED_BY = frozenset(("model", "provider", *COLUMNS["parts"]))
# Whether it is accepted was decided when it was counted.
_ANY_TIME = Window(-LAST_TIME, LAST_TIME, 0)


class PriceList(Protocol):
    """The price list of workers; `source` names it, None where it is not installed or switched off."""

    source: str | None

    def cost_of(self, fields: Mapping[str, Any]) -> Decimal | None: ...


class CorrectedEvent(NamedTuple):
    """An event as it is to be in the ledger, and those of its ids that were made of numbers and texts."""

    row: LedgerRow
    made: Sequence[ExternalId]


class Edits(NamedTuple):
    """Values to set, by field: text in any notation, None for unknown; and what reading them needs.

    With `ids` a conversation may have any id.
    """

    fields: Mapping[str, str | None]
    prices: PriceList
    ids: ExternalIds | None = None

    def check(self) -> None:
        """Check the names of the fields.

        Raises:
            ArgumentError: no field is given, or one that identifies the event.
        """
        if not self.fields:
            raise ArgumentError("nothing to correct: give at least one --set FIELD=VALUE")
        if kept := [name for name in IDENTITY if name in self.fields]:
            raise ArgumentError(
                f"{', '.join(kept)}: cannot be corrected: which event it is, and for whom it counts, stays; there are"
                f" {', '.join(CORRECTABLE)}"
            )

    def of(self, event: LedgerRow) -> CorrectedEvent:
        """Return the corrected event.

        Raises:
            EventRefusedError: a value would be refused at publishing, too.
            ArgumentError: a rating has no such field; or the cost depends on a price list that is not installed here.
        """
        if event["type"] == "rating" and (others := sorted(self.fields.keys() - {"rating"})):
            raise ArgumentError(f"{', '.join(others)}: of a rating only the field rating can be corrected")
        given = {name: event[name] for name in NAMES} | dict(self.fields)
        if "tokens" not in self.fields and self._follow_parts(event):
            given["tokens"] = None
        prepared = prepare(given, _ANY_TIME, self.ids)
        fields = fields_of(prepared.row)
        row = event | {name: fields[name] for name in CORRECTABLE}
        if row["tokens"] is None:
            row["tokens"] = row["input_tokens"] + row["output_tokens"]
        return CorrectedEvent(row if row["type"] == "rating" else row | self._cost(event, row), prepared.made)

    def _follow_parts(self, event: LedgerRow) -> bool:
        """Return whether the total of the tokens was their sum, as where none is given at publishing."""
        is_sum = event["tokens"] == event["input_tokens"] + event["output_tokens"]
        return is_sum and not self.fields.keys().isdisjoint(("input_tokens", "output_tokens"))

    def _cost(self, event: LedgerRow, row: LedgerRow) -> LedgerRow:
        """Return the cost and its source."""
        is_given = "cost_usd" in self.fields
        if is_given and row["cost_usd"] is not None:
            return {"cost_source": CALLER}
        # Ledgers of versions before 4.3.0 do not say whose a cost is: it was the caller's.
        is_the_callers = event["cost_source"] == CALLER or (
            event["cost_source"] is None and event["cost_usd"] is not None
        )
        if not is_given and (is_the_callers or self.fields.keys().isdisjoint(_PRICED_BY)):
            return {}
        if self.prices.source is None and not is_given and event["cost_usd"] is not None:
            raise ArgumentError(
                f"cost_usd: is the one of {event['cost_source']}, which is not installed here or switched off: install"
                " usage-worker[prices], or set cost_usd, too"
            )
        cost = self.prices.cost_of(row)
        return {"cost_usd": cost, "cost_source": UNKNOWN_COST if cost is None else self.prices.source}
