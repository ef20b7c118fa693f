"""What tokens cost: the arithmetic of the price list for all events of one price at once, exact."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from usage_worker.events.columns import MAX_DOLLARS, UNIT
from usage_worker.ingest.event_array import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from genai_prices.types import ModelPrice, TieredPrices

    from usage_worker.ingest.event_array import Numbers, Places

FIELDS: Final = {
    "input_mtok": "input_tokens",
    "cache_read_mtok": "cached_input_tokens",
    "cache_write_mtok": "cache_write_tokens",
    "output_mtok": "output_tokens",
    "output_reasoning_mtok": "reasoning_tokens",
}
"""The prices of a million tokens, by their names in the price list, and the fields of events to which they apply."""
# What is charged at its own price is not charged as a part of the whole, too.
_WHOLES: Final = {
    "cache_read_mtok": "input_mtok",
    "cache_write_mtok": "input_mtok",
    "output_reasoning_mtok": "output_mtok",
}
_MILLION: Final = 1_000_000
_THOUSAND: Final = 1_000
# Far enough below 2**63 for twice a remainder.
_FITS_64_BITS: Final = 2**62


class _Charge(NamedTuple):
    """Something that is charged: how many each event has, what one costs in units by tier, and each event's tier."""

    counts: Numbers
    units: list[Fraction]
    tiers: Places | int


def costs_of(price: ModelPrice, tokens: Mapping[str, Numbers]) -> Numbers:
    """Return what each event costs, in units, rounded half-even like every cost.

    It is unknown where the price list has no price for tokens, where the parts of the tokens exceed the whole, and
    where it exceeds what an event may cost.

    Args:
        price: what the tokens of all events cost.
        tokens: the fields of the events, 0 where they are unknown.

    Raises:
        KeyError: the price list charges a part of the tokens and not the whole.
    """
    charges = _charges(price, tokens)
    if not charges:
        return np.full(len(tokens["input_tokens"]), UNKNOWN)
    divisor = math.lcm(*(units.denominator for charge in charges for units in charge.units))
    most = sum(int(np.abs(it.counts).max()) * int(max(it.units) * divisor) for it in charges)
    most = max(most, 2 * divisor, *(int(max(it.units) * divisor) for it in charges))
    # 28 of 5,000 prices have 17 decimals, and a hostile event has 10**12 tokens: integers of Python take ten times as
    # long.
    kind: Any = np.int64 if most < _FITS_64_BITS else object
    total: Any = 0
    for counts, units, tiers in charges:
        total = total + counts.astype(kind) * np.array([int(it * divisor) for it in units], kind)[tiers]
    costs = _divided(total, divisor)
    is_known = costs <= MAX_DOLLARS * UNIT
    for charge in charges:
        is_known &= charge.counts >= 0
    known: Numbers = np.where(is_known, costs, UNKNOWN).astype(np.int64)
    return known


def _charges(price: ModelPrice, tokens: Mapping[str, Numbers]) -> list[_Charge]:
    """Return what is charged, without what the list has no price for; nothing where it has none for tokens."""
    rates = {name: rate for name in FIELDS if (rate := getattr(price, name)) is not None}
    counts = {name: tokens[FIELDS[name]] for name in rates}
    inputs = tokens["input_tokens"]
    for part, whole in _WHOLES.items():
        if part in rates:
            counts[whole] = counts[whole] - counts[part]
    charges = [_charge(counts[name], rate, _MILLION, inputs) for name, rate in rates.items()]
    if charges and price.requests_kcount is not None:
        charges.append(_charge(np.ones_like(inputs), price.requests_kcount, _THOUSAND, inputs))
    return charges


def _charge(counts: Numbers, rate: Decimal | TieredPrices, per: int, inputs: Numbers) -> _Charge:
    """Return a charge; the tier follows from all input tokens of an event, and holds for all of its tokens."""
    if isinstance(rate, Decimal):
        return _Charge(counts, [Fraction(rate) * UNIT / per], 0)
    amounts = [rate.base, *(tier.price for tier in rate.tiers)]
    tiers = np.searchsorted([tier.start for tier in rate.tiers], inputs)
    return _Charge(counts, [Fraction(amount) * UNIT / per for amount in amounts], tiers)


def _divided(numbers: Any, divisor: int) -> Any:
    """Divide, a half to the even neighbour."""
    whole, rest = numbers // divisor, numbers % divisor
    return whole + ((2 * rest > divisor) | ((2 * rest == divisor) & (whole % 2 == 1)))
