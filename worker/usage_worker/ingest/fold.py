"""The fold: add up records to one line of totals for each user, agent and UTC day.

Pure and independent of order: splitting the records into batches, shuffling them or folding the parts in any order
gives the same totals, once duplicates are removed. So a batch may have any size and be retried at any time.
"""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

from usage_worker.events.event import Pair

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usage_worker.events.event import Record

Folded = dict[str, dict[Pair, "Totals"]]

# The length of the day in a canonical time.
_DAY = len("2026-01-31")


class Totals:
    """The totals of the records of one user, agent and day.

    The newest rating and conversation are decided by the event's time and, at equal times, by the greater value, never
    by the order of arrival. Times and ids are canonical text, which sorts like the values.
    """

    __slots__ = (
        "conversations",
        "cost_usd",
        "first_used_at",
        "input_tokens",
        "last_conversation",
        "last_rating",
        "last_used_at",
        "message_count",
        "output_tokens",
        "response_time_samples",
        "response_time_total_ms",
        "success_count",
        "tokens",
        "usage_count",
    )

    def __init__(self) -> None:
        self.usage_count = self.message_count = self.success_count = 0
        self.input_tokens = self.output_tokens = self.tokens = 0
        self.cost_usd = Decimal(0)
        self.response_time_total_ms = self.response_time_samples = 0
        self.first_used_at: str | None = None
        self.last_used_at: str | None = None
        self.conversations: set[str] = set()
        self.last_conversation: tuple[str, str] | None = None
        self.last_rating: tuple[str, Decimal] | None = None

    def add(self, record: Record) -> None:
        """Add one record."""
        (
            _,
            when,
            _,
            _,
            _,
            messages,
            input_tokens,
            output_tokens,
            tokens,
            cost,
            time,
            success,
            conversation,
            _,
            rating,
        ) = record
        if rating is not None:
            rated = (when, Decimal(rating))
            self.last_rating = rated if self.last_rating is None else max(self.last_rating, rated)
            return
        self.usage_count += 1
        self.message_count += messages
        self.success_count += success
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.tokens += tokens
        if cost is not None:
            self.cost_usd += Decimal(cost)
        if time is not None:
            self.response_time_total_ms += time
            self.response_time_samples += 1
        if self.first_used_at is None or when < self.first_used_at:
            self.first_used_at = when
        if self.last_used_at is None or when > self.last_used_at:
            self.last_used_at = when
        if conversation is not None:
            self.conversations.add(conversation)
            latest = (when, conversation)
            if self.last_conversation is None or latest > self.last_conversation:
                self.last_conversation = latest


def fold(records: Iterable[Record]) -> Folded:
    """Return totals by UTC day, then by pair. Days ascend, so that concurrent batches lock rows in the same order."""
    days: defaultdict[str, defaultdict[Pair, Totals]] = defaultdict(partial(defaultdict, Totals))
    for record in records:
        days[record[1][:_DAY]][record[3], record[4]].add(record)
    return {day: dict(days[day]) for day in sorted(days)}
