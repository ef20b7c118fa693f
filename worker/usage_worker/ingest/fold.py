"""The fold: add up events to rows of totals, one for each user, agent and UTC day, and one for each user and agent.

Pure and independent of order: splitting the events into batches, shuffling them or folding the parts in any order
gives the same totals, once duplicates are removed. So a batch may have any size and be retried at any time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from usage_worker.events.columns import UNIT
from usage_worker.ingest.event_array import RATING, UNKNOWN, order_of, starts_of, uuid_texts

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from usage_worker.ingest.event_array import Chosen, Events, Numbers, Places

TYPES: Final = {
    "user_id": "uuid",
    "agent_id": "uuid",
    "day": "date",
    "is_pair": "boolean",
    "usage_count": "integer",
    "message_count": "bigint",
    "success_count": "bigint",
    "input_tokens": "bigint",
    "output_tokens": "bigint",
    "cached_input_tokens": "bigint",
    "cache_write_tokens": "bigint",
    "reasoning_tokens": "bigint",
    "total_tokens_used": "bigint",
    "total_cost_usd": "numeric",
    "response_time_total_ms": "bigint",
    "response_time_samples": "bigint",
    "first_used_at": "timestamptz",
    "last_used_at": "timestamptz",
    "last_conversation_at": "timestamptz",
    "rating": "numeric",
    "rated_at": "timestamptz",
    "conversations": "uuid[]",
}
"""The columns of a row of totals, as those of the query `staging`, and their types."""
_FIELDS: dict[str, tuple[Any, ...]] = {
    "uuid": ("u8", (2,)),
    "date": ("i8",),
    "boolean": ("?",),
    "integer": ("i8",),
    "bigint": ("i8",),
    # Whole ones, and less than one in units of the last decimal: a million dollars 200,000 times, in units, exceeds
    # 64 bits.
    "numeric": ("i8", (2,)),
    "timestamptz": ("i8",),
    # Their number.
    "uuid[]": ("i8",),
}
TOTALS = np.dtype([(name, *_FIELDS[sql_type]) for name, sql_type in TYPES.items()])
NONE: Final = np.iinfo(np.int64).min
"""Stands for NULL in days and times; an earlier time than any."""
_NEVER: Final = np.iinfo(np.int64).max
_DAY: Final = 86_400_000_000
# The totals that are sums of a field of the events. The largest is one of tokens; `event_array` has the proof that it
# fits 64 bits. Of costs, whole dollars and fractions are summed apart: 9,000,000 fractions are less than 9 * 10**16.
_SUMS: Final = {
    "message_count": "messages",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_input_tokens": "cached_input_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "total_tokens_used": "tokens",
    "response_time_total_ms": "response_time_ms",
}


class Totals(NamedTuple):
    """Totals of distinct events, in the order of the keys: user, agent, day.

    A pair of a user and an agent whose events span days has, after its rows of days, one without a day for all of them.
    `is_pair` marks the row that has all totals of its pair; the other rows have only what days have: sums, and the
    conversations that the batch uses first on that day.
    """

    rows: npt.NDArray[np.void]
    """Records of `TOTALS`. In `conversations` they have the number of theirs."""
    conversations: npt.NDArray[np.uint64]
    """Distinct in a row, in the order of the rows; in rows of pairs the newest is the first."""

    def parts(self, size: int) -> Iterator[Totals]:
        """Yield them in parts of so many rows."""
        before = np.append(0, np.cumsum(self.rows["conversations"]))
        for start in range(0, len(self.rows), size):
            end = min(start + size, len(self.rows))
            yield Totals(self.rows[start:end], self.conversations[before[start] : before[end]])

    @property
    def pairs(self) -> npt.NDArray[np.void]:
        """The rows of pairs, one for each."""
        pairs: npt.NDArray[np.void] = self.rows[self.rows["is_pair"]]
        return pairs

    @property
    def pair_count(self) -> int:
        """The number of pairs, without a copy of their rows."""
        return int(np.count_nonzero(self.rows["is_pair"]))

    def user_ranges(self, size: int) -> list[tuple[str, str]]:
        """Divide the users, in key order, into ranges of about so many rows, each with both its ends.

        A user's rows stay together.
        """
        users = self.rows["user_id"]
        starts = starts_of(users)
        firsts = starts[starts_of(starts // size)]
        lasts = np.append(firsts, len(users))[1:] - 1
        return list(zip(uuid_texts(users[firsts]), uuid_texts(users[lasts]), strict=True))

    @property
    def days(self) -> set[str]:
        """The days, as `2026-01-31`."""
        days = np.unique(self.rows["day"])
        return {str(day) for day in days[days != NONE].astype("M8[D]")}


class _Groups(NamedTuple):
    """Where the groups of sorted events begin, and which rows of totals they have.

    `days` are the first events of each pair's days, `pairs` those of each pair; `first_days` are the places of the
    latter in the former.
    """

    days: Places
    pairs: Places
    first_days: Places
    spans: npt.NDArray[np.bool_]
    day_rows: Places
    pair_rows: Places


def fold(events: Chosen | Events) -> Totals:
    """Return the totals of distinct events, which may be in any order."""
    if not len(events):
        return Totals(np.empty(0, TOTALS), np.empty((0, 2), np.uint64))
    events = events[order_of(events["user_id"], events["agent_id"], events["occurred_at"] // _DAY)]
    groups = _groups(events)
    rows = np.zeros(len(groups.days) + int(groups.spans.sum()), TOTALS)
    _set_keys(rows, events, groups)
    ratings = np.flatnonzero(events["type"] == RATING)
    _set_ratings(rows, events, groups, ratings)
    _set_sums(rows, events, groups)
    _set_times(rows, events, groups)
    return Totals(rows, _set_conversations(rows, events, groups))


def _groups(events: Chosen | Events) -> _Groups:
    keys = events["user_id"], events["agent_id"]
    days, pairs = starts_of(*keys, events["occurred_at"] // _DAY), starts_of(*keys)
    first_days = np.searchsorted(days, pairs)
    days_of_pair = np.diff(first_days, append=len(days))
    spans = days_of_pair > 1
    # Each pair that spans days moves all rows after it by one.
    moved: Places = np.cumsum(spans) - spans
    day_rows = np.arange(len(days)) + np.repeat(moved, days_of_pair)
    return _Groups(days, pairs, first_days, spans, day_rows, first_days + moved + np.where(spans, days_of_pair, 0))


def _set_keys(rows: npt.NDArray[np.void], events: Chosen | Events, groups: _Groups) -> None:
    """Set the keys of all rows."""
    first_of_row = np.empty(len(rows), np.intp)
    first_of_row[groups.day_rows] = groups.days
    first_of_row[groups.pair_rows] = groups.pairs
    firsts = events[first_of_row]
    for name in ("user_id", "agent_id"):
        rows[name] = firsts[name]
    rows["day"] = firsts["occurred_at"] // _DAY
    rows["day"][groups.pair_rows[groups.spans]] = NONE
    rows["is_pair"][groups.pair_rows] = True


def _set_ratings(rows: npt.NDArray[np.void], events: Chosen | Events, groups: _Groups, ratings: Places) -> None:
    """Set the newest rating of each pair, at equal times the greatest."""
    rows["rated_at"] = NONE
    if not len(ratings):
        return
    pairs = np.searchsorted(groups.pairs, ratings, side="right") - 1
    times, values = events["occurred_at"][ratings], events["rating"][ratings]
    order = order_of(pairs, times, values)
    newest = order[np.append(starts_of(pairs[order])[1:], len(order)) - 1]
    rated = groups.pair_rows[pairs[newest]]
    rows["rated_at"][rated] = times[newest]
    rows["rating"][rated] = np.column_stack(np.divmod(values[newest], UNIT))


def _set_sums(rows: npt.NDArray[np.void], events: Chosen | Events, groups: _Groups) -> None:
    """Set the sums of all rows."""

    def add(values: npt.NDArray[Any]) -> Numbers:
        sums = np.empty(len(rows), np.int64)
        of_days = np.add.reduceat(values, groups.days, dtype=np.int64)
        sums[groups.day_rows] = of_days
        if groups.spans.any():
            sums[groups.pair_rows] = np.add.reduceat(of_days, groups.first_days)
        return sums

    uses = events["type"] != RATING
    rows["usage_count"] = add(uses)
    rows["success_count"] = add(events["success"] & uses)
    rows["response_time_samples"] = add((events["response_time_ms"] != UNKNOWN) & uses)
    for name, field in _SUMS.items():
        rows[name] = add(np.maximum(events[field], 0) * uses)
    whole, units = map(add, np.divmod(np.maximum(events["cost_usd"], 0) * uses, UNIT))
    carried, rows["total_cost_usd"][:, 1] = np.divmod(units, UNIT)
    rows["total_cost_usd"][:, 0] = whole + carried


def _set_times(rows: npt.NDArray[np.void], events: Chosen | Events, groups: _Groups) -> None:
    """Set the times of the first and the last use of each pair."""
    times, uses = events["occurred_at"], events["type"] != RATING
    last = np.maximum.reduceat(np.where(uses, times, NONE), groups.pairs)
    first = np.minimum.reduceat(np.where(uses, times, _NEVER), groups.pairs)
    rows["first_used_at"] = rows["last_used_at"] = NONE
    rows["last_used_at"][groups.pair_rows] = last
    rows["first_used_at"][groups.pair_rows] = np.where(last == NONE, NONE, first)


def _set_conversations(rows: npt.NDArray[np.void], events: Chosen | Events, groups: _Groups) -> npt.NDArray[np.uint64]:
    """Set the numbers of conversations of all rows, and the time of the newest of each pair; return them."""
    rows["last_conversation_at"] = NONE
    uses = np.flatnonzero(events["has_conversation"] & (events["type"] != RATING))
    if not len(uses):
        return np.empty((0, 2), np.uint64)
    pairs, ids = np.searchsorted(groups.pairs, uses, side="right") - 1, events[uses]["conversation_id"]
    order = order_of(pairs, ids)
    uses, pairs, ids = uses[order], pairs[order], ids.take(order, axis=0)
    starts = starts_of(pairs, ids)
    pairs, ids = pairs[starts], ids.take(starts, axis=0)
    # Events are sorted by day, so the first use of all is one on the first day.
    first = np.minimum.reduceat(uses, starts)
    last = np.maximum.reduceat(events[uses]["occurred_at"], starts)
    begins = starts_of(pairs)
    times = np.maximum.reduceat(last, begins)
    rows["last_conversation_at"][groups.pair_rows[pairs[begins]]] = times
    # At equal times the greatest, which is the last of them here.
    is_newest = last == np.repeat(times, np.diff(begins, append=len(pairs)))
    newest = np.maximum.reduceat(np.where(is_newest, np.arange(len(pairs)), 0), begins)
    for values in (ids, first):
        values[begins], values[newest] = values[newest], values[begins]
    listed = groups.pair_rows[pairs]
    also = groups.spans[pairs]
    if also.any():
        on_day = groups.day_rows[np.searchsorted(groups.days, first[also], side="right") - 1]
        listed, ids = np.concatenate((listed, on_day)), np.concatenate((ids, ids[also]))
        order = np.argsort(listed, kind="stable")
        listed, ids = listed[order], ids.take(order, axis=0)
    rows["conversations"] = np.bincount(listed, minlength=len(rows))
    return ids
