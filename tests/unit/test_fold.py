"""The fold gives the totals that plain Python adds up, for any order of the events and division into batches."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.event_arrays import MIDNIGHT, PlainEvent, array_from, lists_of_events
from tests.plain_fold import SUMS, Rows, of_pair, plain, plain_fold
from usage_worker.events.columns import MAX_DOLLARS, MAX_TOKENS, UNIT
from usage_worker.ingest.event_array import EVENT, uuid_texts
from usage_worker.ingest.fold import fold

if TYPE_CHECKING:
    from random import Random

USE = PlainEvent(UUID(int=9), MIDNIGHT, "usage", UUID(int=1), UUID(int=2), conversation_id=UUID(int=5))
RATING = USE._replace(event_id=UUID(int=8), type="rating", rating=4 * UNIT)


@given(lists_of_events())
def test_totals_equal_plain_python(events: list[PlainEvent]) -> None:
    array = array_from(events)
    before = array.copy()
    expected = plain_fold(events)
    assert plain(fold(array)) == expected
    assert list(plain(fold(array))) == list(expected)  # in key order, in which the statement locks
    assert array.tobytes() == before.tobytes()


@given(lists_of_events(), st.randoms(), st.integers(1, 7))
def test_order_and_batches_do_not_matter(events: list[PlainEvent], random: Random, size: int) -> None:
    shuffled = events[:]
    random.shuffle(shuffled)
    batches = [plain(fold(array_from(shuffled[start : start + size]))) for start in range(0, len(shuffled), size)]
    assert merged(batches) == merged([plain_fold(events)])


def merged(batches: list[Rows]) -> Rows:
    """Add up the batches by the rules of the query `apply_totals`: the rows of days, and those of pairs."""
    total: Rows = {}
    for user, agent, day, row in ((*key, row) for batch in batches for key, row in batch.items()):
        added = ("usage_count", "response_time_samples", *SUMS)
        if day is not None:
            known = total.setdefault((user, agent, day), dict.fromkeys(added, 0))
            known |= {name: known[name] + row[name] for name in added}
        if row["is_pair"]:
            known = total.setdefault((user, agent, None), {**dict.fromkeys(added, 0), **of_pair([]), "names": set()})
            known |= {name: known[name] + row[name] for name in added}
            known["names"] |= row["conversations"]
            known["first_used_at"] = min(filter(None, (known["first_used_at"], row["first_used_at"])), default=None)
            known["last_used_at"] = max(filter(None, (known["last_used_at"], row["last_used_at"])), default=None)
            for time, value in (("last_conversation_at", "newest"), ("rated_at", "rating")):
                if row[time] and (known[time] is None or (row[time], row[value]) > (known[time], known[value])):
                    known[time], known[value] = row[time], row[value]
    return total


def test_no_events_have_no_totals() -> None:
    totals = fold(np.empty(0, EVENT))
    assert (plain(totals), totals.days, totals.pair_count) == ({}, set(), 0)


def test_pair_and_days_are_named_once() -> None:
    events = [USE, USE._replace(occurred_at=MIDNIGHT - timedelta(microseconds=1)), USE._replace(agent_id=UUID(int=1))]
    totals = fold(array_from(events))
    assert totals.days == {"2026-03-01", "2026-03-02"}
    assert uuid_texts(totals.pairs["agent_id"]) == [UUID(int=1).hex, UUID(int=2).hex]
    assert totals.pairs["usage_count"].tolist() == [1, 2]
    assert totals.pair_count == 2


def test_conversation_is_listed_on_the_first_day_of_its_uses() -> None:
    events = [USE._replace(occurred_at=MIDNIGHT + timedelta(days=day)) for day in (1, 0, 2)]
    events += [USE._replace(occurred_at=MIDNIGHT, conversation_id=UUID(int=4))]
    assert [len(row["conversations"]) for row in plain(fold(array_from(events))).values()] == [2, 0, 0, 2]


def test_pair_of_ratings_has_no_use() -> None:
    ((_, row),) = plain(fold(array_from([RATING]))).items()
    assert (row["usage_count"], row["last_used_at"], row["conversations"], row["message_count"]) == (0, None, set(), 0)
    assert (row["rating"], row["rated_at"]) == (4 * UNIT, MIDNIGHT)


@pytest.mark.parametrize("units", [MAX_DOLLARS * UNIT, MAX_DOLLARS * UNIT - 1, UNIT - 1])
def test_largest_costs_and_tokens_add_up(units: int) -> None:
    """200,000 times a million dollars, in units, exceeds 64 bits."""
    events = np.repeat(array_from([USE]), 200_000)
    events["cost_usd"], events["tokens"] = units, MAX_TOKENS
    ((_, row),) = plain(fold(events)).items()
    assert (row["total_cost_usd"], row["total_tokens_used"]) == (200_000 * units, 200_000 * MAX_TOKENS)
