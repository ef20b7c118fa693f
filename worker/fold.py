"""The fold: many records become one line of totals for each user, agent and UTC day.

Pure and order-free: splitting the records into batches, shuffling them or folding the parts in any order gives the
same totals (after duplicates are out). That is why a batch may be of any size and be retried at any time.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.events import Record

Pair = tuple[UUID, UUID]
Folded = dict[date, dict[Pair, "Totals"]]

_EPOCH = date(1970, 1, 1).toordinal()


class Totals:
    """What the records of one user, agent and day add up to.

    "The newest" (rating, conversation) is decided by the event's time and, at equal times, by the greater value:
    never by the order of arrival.
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
        self.first_used_at: datetime | None = None
        self.last_used_at: datetime | None = None
        self.conversations: set[UUID] = set()
        self.last_conversation: tuple[datetime, UUID] | None = None
        self.last_rating: tuple[datetime, Decimal] | None = None

    def add(self, record: Record) -> None:
        """Count one record."""
        when = record.occurred_at
        if record.rating is not None:
            newest = (when, record.rating)
            self.last_rating = newest if self.last_rating is None else max(self.last_rating, newest)
            return
        self.usage_count += 1
        self.message_count += record.messages
        self.success_count += record.success
        self.input_tokens += record.input_tokens
        self.output_tokens += record.output_tokens
        self.tokens += record.tokens
        if record.cost_usd is not None:
            self.cost_usd += record.cost_usd
        if record.response_time_ms is not None:
            self.response_time_total_ms += record.response_time_ms
            self.response_time_samples += 1
        if self.first_used_at is None or when < self.first_used_at:
            self.first_used_at = when
        if self.last_used_at is None or when > self.last_used_at:
            self.last_used_at = when
        if record.conversation_id is not None:
            self.conversations.add(record.conversation_id)
            latest = (when, record.conversation_id)
            self.last_conversation = latest if self.last_conversation is None else max(self.last_conversation, latest)


def fold(records: Iterable[Record]) -> Folded:
    """Totals by UTC day, then by pair; days ascend, and so do the pairs, which is the order they are locked in."""
    groups: defaultdict[tuple[int, UUID, UUID], Totals] = defaultdict(Totals)
    for record in records:
        groups[int(record.occurred_at.timestamp() // 86_400), record.user_id, record.agent_id].add(record)
    days: Folded = {}
    for day, user_id, agent_id in sorted(groups, key=lambda key: (key[0], key[1].int, key[2].int)):
        pairs = days.setdefault(date.fromordinal(_EPOCH + day), {})
        pairs[user_id, agent_id] = groups[day, user_id, agent_id]
    return days
