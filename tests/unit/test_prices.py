"""Costs from the price list, compared with what the list's own library says for each event by itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime, time, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from genai_prices import Usage, calc_price
from genai_prices.data import providers as PROVIDERS  # noqa: N812 - a constant
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import (
    ClauseEquals,
    ClauseRegex,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.event_arrays import MIDNIGHT, PlainEvent, array_from
from usage_worker.events.columns import MAX_DOLLARS, MAX_TOKENS, UNIT
from usage_worker.events.event import Window
from usage_worker.ingest.entries import DecodedEntry
from usage_worker.ingest.event_array import UNKNOWN, TextTable
from usage_worker.ingest.prices import Prices
from usage_worker.queue.entry import RawEntry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from usage_worker.ingest.event_array import Events

USE = PlainEvent(UUID(int=9), MIDNIGHT, "usage", UUID(int=1), UUID(int=2), model="gpt-4o", provider="openai")
PARTS = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")
TOKEN_PRICES = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "output_reasoning_mtok")
# As it has been since 2024-10-02: 2.5 US dollars for a million input tokens, 10 for output, 1.25 for cached ones.
COST = 3 * 25_000 + 4 * 100_000
tokens = st.integers(0, MAX_TOKENS) | st.integers(0, 300_000) | st.sampled_from([0, 1, 128_000, 200_000, 200_001])


def filled(events: Sequence[PlainEvent], prices: Prices | None = None) -> Events:
    texts = TextTable()
    array = array_from(events, texts)
    (prices or Prices("genai-prices")).fill(array, texts)
    return array


def costs(*events: PlainEvent) -> list[int]:
    found: list[int] = filled(events)["cost_usd"].tolist()
    return found


def expected(event: PlainEvent) -> int:
    """Return the cost by the library, for one event."""
    usage = Usage(
        input_tokens=event.input_tokens,
        output_tokens=event.output_tokens,
        cache_read_tokens=event.cached_input_tokens,
        cache_write_tokens=event.cache_write_tokens,
        output_reasoning_tokens=event.reasoning_tokens,
    )
    if not event.input_tokens + event.output_tokens:
        return UNKNOWN
    try:
        price = calc_price(
            usage, event.model or "", provider_id=event.provider, genai_request_timestamp=event.occurred_at
        )
    except (LookupError, ValueError):
        return UNKNOWN
    if all(getattr(price.model_price, name) is None for name in TOKEN_PRICES):
        return UNKNOWN
    cost = int(price.total_price.quantize(Decimal("1E-10"), ROUND_HALF_EVEN) * UNIT)
    return cost if cost <= MAX_DOLLARS * UNIT else UNKNOWN


def test_every_model_costs_what_the_library_says() -> None:
    random = Random(7)
    for provider in PROVIDERS:
        for start in range(0, len(provider.models), 300):
            models = provider.models[start : start + 300]
            events = [event for model in models for event in sample(random, provider, model)]
            assert costs(*events) == list(map(expected, events))


def sample(random: Random, provider: Provider, model: ModelInfo) -> Iterator[PlainEvent]:
    """Yield events on both sides of each step of a model's prices."""
    conditional = model.prices if isinstance(model.prices, list) else []
    times = [MIDNIGHT, *(when for it in conditional for when in around(it.constraint))]
    prices = [it.prices for it in conditional] if conditional else [model.prices]
    steps = {
        tier.start + more
        for price in prices
        for rate in vars(price).values()
        if isinstance(rate, TieredPrices)
        for tier in rate.tiers
        for more in (0, 1)
    }
    for when in times:
        for inputs in [random.randrange(1_000_000), *steps] if when == MIDNIGHT else [random.randrange(1_000_000)]:
            cached, outputs = random.randrange(inputs + 1), random.randrange(100_000)
            written, thought = random.randrange(inputs - cached + 1), random.randrange(outputs + 1)
            use = USE._replace(occurred_at=when, model=model.id, provider=provider.id)
            use = use._replace(input_tokens=inputs, output_tokens=outputs, cached_input_tokens=cached)
            yield use._replace(cache_write_tokens=written, reasoning_tokens=thought)


def around(constraint: StartDateConstraint | TimeOfDateConstraint | None) -> Iterator[datetime]:
    """Yield the times just before and at each change; prices are looked up once for each minute."""
    match constraint:
        case StartDateConstraint(start_date=day):
            changes = [datetime.combine(day, time(), UTC)]
        case TimeOfDateConstraint(start_time=start, end_time=end):
            changes = [datetime.combine(MIDNIGHT, start), datetime.combine(MIDNIGHT, end)]
        case _:
            changes = []
    for change in changes:
        assert (change.second, change.microsecond) == (0, 0)
        yield from (change - timedelta(microseconds=1), change)


@given(
    st.lists(
        st.builds(
            lambda model, *values: USE._replace(
                provider=model[0], model=model[1], **dict(zip(PARTS, values, strict=True))
            ),
            st.sampled_from(
                [
                    ("openai", "gpt-4o"),
                    (None, "claude-sonnet-4-5"),
                    ("google", "gemini-2.5-pro"),
                    ("openrouter", "google/gemini-3-flash-preview"),
                    ("perplexity", "sonar-pro"),
                    ("openai", "text-embedding-3-small"),
                    (None, "my-finetune"),
                ]
            ),
            tokens,
            tokens,
            *[st.none() | tokens] * 3,
        ),
        max_size=6,
    )
)
def test_any_tokens_cost_what_the_library_says(events: list[PlainEvent]) -> None:
    assert costs(*events) == list(map(expected, events))


def test_cached_tokens_are_part_of_the_input() -> None:
    assert costs(USE, USE._replace(cached_input_tokens=3)) == [COST, COST - 3 * 12_500]


@pytest.mark.parametrize(
    "event",
    [
        USE._replace(model="my-finetune"),
        USE._replace(provider="my-gateway"),
        USE._replace(model=None),
        USE._replace(input_tokens=0, output_tokens=0),
        USE._replace(type="rating", rating=UNIT),
        USE._replace(cached_input_tokens=4),  # more than the input
        USE._replace(provider="github-copilot"),  # in the list, without a price
        USE._replace(input_tokens=MAX_TOKENS, output_tokens=MAX_TOKENS),  # more than an event may cost
    ],
)
def test_what_the_list_does_not_say_is_unknown(event: PlainEvent) -> None:
    array = filled([event])
    assert (array["cost_usd"].tolist(), array["is_priced"].tolist()) == ([UNKNOWN], [False])


def test_cost_of_the_caller_stays() -> None:
    array = filled([USE._replace(cost_usd=0), USE._replace(cost_usd=7), USE])
    assert array["cost_usd"].tolist() == [0, 7, COST]
    assert array["is_priced"].tolist() == [False, False, True]


def test_nothing_is_filled_in_where_it_is_switched_off() -> None:
    prices = Prices("off")
    assert prices.source is None
    assert filled([USE], prices)["cost_usd"].tolist() == [UNKNOWN]


def test_price_is_that_of_the_time_even_if_that_changes() -> None:
    night = datetime(2025, 8, 1, 17, tzinfo=UTC)
    use = USE._replace(provider="deepseek", model="deepseek-chat", input_tokens=1_000_000, occurred_at=night)
    day = use._replace(occurred_at=night - timedelta(hours=6))
    assert expected(use) != expected(day)
    texts, prices = TextTable(), Prices("genai-prices")
    array = array_from([use], texts)
    prices.fill(array, texts)
    assert array["cost_usd"].tolist() == [expected(use)]
    array["occurred_at"] -= 6 * 3_600_000_000
    prices.fill(array, texts)
    assert array["cost_usd"].tolist() == [expected(day)]


@pytest.mark.parametrize("name", ["", " ", "gpt-4o\n", "/", "litellm/", "(" * 200, "claude" * 33, "\U0001f600" * 200])
@pytest.mark.parametrize("provider", [None, "", "litellm", "openai", "OpenAI ", "(?"])
def test_hostile_names_are_priced_like_the_library_says(provider: str | None, name: str) -> None:
    hostile = USE._replace(provider=provider, model=name)
    assert costs(hostile, USE) == [expected(hostile), COST]


def test_many_names_are_bounded_and_leave_nothing_behind() -> None:
    """Those with the most events are priced; what is looked up is not kept by the library."""
    events = [USE._replace(model=f"gemini-2.5-pro-{uuid4()}", provider=None) for _ in range(3_000)]
    snapshot = get_snapshot()
    before = len(snapshot._lookup_cache), len(snapshot._provider_cache), len(snapshot._provider_misses)
    found = costs(*events, USE, USE)
    assert found[-2:] == [COST, COST]
    assert 3_000 - found.count(UNKNOWN) == 999
    assert (len(snapshot._lookup_cache), len(snapshot._provider_cache), len(snapshot._provider_misses)) == before


BROKEN: dict[str, Any] = {
    "a price without its whole": {"prices": ModelPrice(cache_read_mtok=Decimal(1))},
    "no number": {"prices": ModelPrice(input_mtok=Decimal("NaN"))},
    "no prices": {"prices": []},
    "no pattern": {"match": ClauseRegex("(")},
}


@pytest.mark.parametrize("name", BROKEN)
def test_errors_of_the_library_cost_nobody_else_anything(name: str) -> None:
    fields = {"match": ClauseEquals(name), "prices": ModelPrice(input_mtok=Decimal(1))} | BROKEN[name]
    broken = Provider("broken", "Broken", "broken", models=[ModelInfo(name, **fields)])
    PROVIDERS.append(broken)
    try:
        assert costs(USE._replace(provider="broken", model=name), USE) == [UNKNOWN, COST]
    finally:
        PROVIDERS.remove(broken)


def test_dead_letter_has_no_cost_of_the_list() -> None:
    texts = TextTable()
    array = array_from([USE, USE._replace(cost_usd=7)], texts)
    Prices("genai-prices").fill(array, texts)
    entry = DecodedEntry.of("s", RawEntry("1-0", {b"v": b"1", b"events": b"[]"}), texts, Window(0, 2**62, 35))
    payloads = [json.loads(entry.bad_event(event, "").payload) for event in array]
    assert [payload.get("cost_usd") for payload in payloads] == [None, "0.0000000007"]
