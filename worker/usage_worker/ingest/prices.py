"""Costs that nobody gave: from the price list of the extra `prices`, for events that name a model.

The list is a package, `genai-prices`: nothing is asked over the network, and a newer list is a newer package.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from usage_worker.ingest.entries import describe
from usage_worker.ingest.event_array import RATING, UNKNOWN, order_of, starts_of
from usage_worker.ingest.token_costs import FIELDS, costs_of
from usage_worker.logs import get_logger
from usage_worker.printable import REASON_LENGTH, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from genai_prices.types import ModelInfo, ModelPrice

    from usage_worker.ingest.event_array import Events, Numbers, Places, TextTable

log = get_logger("ingest")

_PACKAGE = "genai-prices"
# A look-up takes 0.1 to 0.5 ms, and names are whatever somebody sends: so many models of what is decoded at once
# (20,000 events) are priced, those with the most events first, and so many are remembered.
_MOST_MODELS = 1_000
_REMEMBERED = 10_000
# Prices begin, and differ by the time of day, at whole minutes.
_MINUTE = 60_000_000


class Prices:
    """The price list, if it is installed and `USAGE_PRICES` does not switch it off.

    Attributes:
        source: the list and its version; None where no cost is filled in.
    """

    def __init__(self, price_list: Literal["genai-prices", "off"]) -> None:
        self.source = _installed() if price_list == _PACKAGE else None

    def fill(self, events: Events, texts: TextTable) -> None:
        """Fill in the cost of uses that have a model, tokens and no cost of the caller; what fails stays unknown.

        What was filled in before is filled in again: the time of an event may have changed.
        """
        if self.source is None:
            return
        events["cost_usd"][events["is_priced"]] = UNKNOWN
        events["is_priced"] = False
        is_wanted = (events["cost_usd"] == UNKNOWN) & (events["model"] != UNKNOWN) & (events["type"] != RATING)
        is_wanted &= (events["input_tokens"] > 0) | (events["output_tokens"] > 0)
        wanted = np.flatnonzero(is_wanted)
        if not len(wanted):
            return
        # Gathered once: a record is longer than a line of the cache, so that each access to a field loads another line.
        uses = _Uses(
            providers=events["provider"][wanted],
            models=events["model"][wanted],
            times=events["occurred_at"][wanted],
            tokens={name: np.maximum(events[name][wanted], 0) for name in FIELDS.values()},
        )
        costs = uses.costs(texts)
        events["cost_usd"][wanted], events["is_priced"][wanted] = costs, costs != UNKNOWN


class _Uses(NamedTuple):
    """What the costs of uses depend on, by columns."""

    providers: Numbers
    models: Numbers
    times: Numbers
    tokens: Mapping[str, Numbers]

    def costs(self, texts: TextTable) -> Numbers:
        """Return the costs of the uses."""
        costs = np.full(len(self.models), UNKNOWN)
        for places in self._by_model()[:_MOST_MODELS]:
            first = places[0]
            model = _model_of(texts.text(self.providers[first]), texts.text(self.models[first]))
            if model:
                costs[places] = self._of_model(model, places)
        return costs

    def _by_model(self) -> list[Places]:
        """Return the places of each provider and model, the largest group first."""
        order = order_of(self.models, self.providers)
        starts = starts_of(self.models[order], self.providers[order])
        return sorted(np.split(order, starts[1:]), key=len, reverse=True)

    def _of_model(self, model: ModelInfo, places: Places) -> Numbers:
        """Return the costs of the uses at these places, which are of one model; unknown where the library fails."""
        costs = np.full(len(places), UNKNOWN)
        try:
            for price, at in _prices_of(model, self.times[places]):
                chosen = places[at]
                costs[at] = costs_of(price, {name: counts[chosen] for name, counts in self.tokens.items()})
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - an error of the library must not stop a batch
            _warn(model.id, error)
        return costs


def _installed() -> str | None:
    try:
        return f"{_PACKAGE} {version(_PACKAGE)}"
    except PackageNotFoundError:
        return None


@lru_cache(_REMEMBERED)
def _model_of(provider: str | None, name: str) -> ModelInfo | None:
    """Return a model of the list; None if it has none of that name, or fails."""
    try:
        # At the first event without a cost: 0.1 s, and 6 MB.
        from genai_prices.data import providers  # noqa: PLC0415 - of the extra `prices`
        from genai_prices.data_snapshot import DataSnapshot  # noqa: PLC0415

        # Not the library's own, which remembers all names for ever, and which an application may replace.
        snapshot = DataSnapshot(providers, from_auto_update=False)
        return snapshot.find_provider_model(name, None, provider, None)[1]
    except LookupError:
        return None
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - an error of the library must not stop a batch
        _warn(name, error)
        return None


def _prices_of(model: ModelInfo, times: Numbers) -> Iterator[tuple[ModelPrice, Places]]:
    """Yield the prices of a model at these times, each with the places of its times."""
    if not isinstance(model.prices, list):
        yield model.prices, np.arange(len(times))
        return
    minutes, number = np.unique(times // _MINUTE, return_inverse=True)
    prices = [model.get_prices(datetime.fromtimestamp(60 * minute, UTC)) for minute in minutes.tolist()]
    for price in {id(price): price for price in prices}.values():
        yield price, np.flatnonzero(np.array([it is price for it in prices])[number])


def _warn(model: str, error: Exception) -> None:
    reason = printable(describe(error), REASON_LENGTH)
    log.warning("a model cannot be priced", model=printable(model), reason=reason)
