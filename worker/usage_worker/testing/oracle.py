"""An oracle: computes from the published events what the counters in PostgreSQL must be.

It shares no code with ingest: plain Python, one event at a time, nothing imported from the rest of the package. An
error in validation, batching, folding or SQL therefore shows up as a difference, instead of being made twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass
class ExpectedCounters:
    """The columns of one row of `user_agents` that events determine, and the parts of the tokens, which days have.

    Costs are in US dollars, response times in milliseconds, times are aware; None means that no event had a value.
    """

    usage_count: int = 0
    message_count: int = 0
    success_count: int = 0
    error_count: int = 0
    total_tokens_used: int = 0
    total_cost_usd: Decimal = Decimal(0)
    response_time_total_ms: int = 0
    response_time_samples: int = 0
    first_used_at: datetime | None = None
    last_used_at: datetime | None = None
    user_rating: Decimal | None = None
    last_rating_at: datetime | None = None
    conversations: set[UUID] = field(default_factory=set)
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def conversation_count(self) -> int:
        """The number of distinct conversations."""
        return len(self.conversations)

    @property
    def avg_response_time_ms(self) -> int | None:
        """The mean response time, a half rounded up as PostgreSQL's `round(numeric)` does; None without a sample."""
        if not self.response_time_samples:
            return None
        average = Decimal(self.response_time_total_ms) / self.response_time_samples
        return int(average.quantize(Decimal(1), ROUND_HALF_UP))

    @property
    def quality_score(self) -> Decimal:
        """The score from 0 to 5, two decimals: 0.5 · (rating or 3) + 0.3 · 5 · success rate + 0.2 · usage tier."""
        outcomes = self.success_count + self.error_count
        rate = Decimal(5 * self.success_count) / outcomes if outcomes else Decimal(0)
        tiers = ((100, "5.0"), (50, "4.5"), (20, "4.0"), (10, "3.5"), (5, "3.0"), (0, "2.5"))
        tier = next((Decimal(score) for above, score in tiers if self.usage_count > above), Decimal(0))
        rating = Decimal(3) if self.user_rating is None else self.user_rating
        score = Decimal("0.5") * rating + Decimal("0.3") * rate + Decimal("0.2") * tier
        return score.quantize(Decimal("0.01"), ROUND_HALF_UP)

    def add_usage(self, event: Mapping[str, Any]) -> None:
        """Add the amounts of one usage event; its identity and time are ignored."""
        self.usage_count += 1
        self.message_count += int(_rounded(event, "messages", "1", 1))
        if str(event.get("success")).lower() in ("none", "true", "1", "1.0"):
            self.success_count += 1
        else:
            self.error_count += 1
        for name in TOKEN_PARTS:
            setattr(self, name, getattr(self, name) + int(_rounded(event, name, "1")))
        parts = _rounded(event, "input_tokens", "1") + _rounded(event, "output_tokens", "1")
        self.total_tokens_used += int(_rounded(event, "tokens", "1", parts))
        self.total_cost_usd += _rounded(event, "cost_usd", "1E-10")
        if event.get("response_time_ms") is not None:
            self.response_time_total_ms += int(_rounded(event, "response_time_ms", "1"))
            self.response_time_samples += 1
        if event.get("conversation_id") is not None:
            self.conversations.add(_uuid(event["conversation_id"]))


TOKEN_PARTS = ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")
"""The columns of `usage_daily` that `user_agents` does not have."""

COUNTER_COLUMNS = (
    *("usage_count", "message_count", "conversation_count", "success_count", "error_count", "total_tokens_used"),
    *("total_cost_usd", "response_time_total_ms", "response_time_samples", "avg_response_time_ms"),
    *("first_used_at", "last_used_at", "user_rating", "last_rating_at", "quality_score"),
)
"""The columns of `user_agents` that `Oracle.differences` compares."""


class Oracle:
    """The expected counters of all pairs of a user and an agent.

    Attributes:
        rows: the expected counters by `(user_id, agent_id)`.
        published: the number of events added, duplicates included.
    """

    def __init__(self) -> None:
        """Start without events."""
        self.rows: dict[tuple[UUID, UUID], ExpectedCounters] = {}
        self.published = 0
        self._event_ids: set[str] = set()

    @property
    def distinct(self) -> int:
        """The number of different events, by `event_id`."""
        return len(self._event_ids)

    def add(self, event: Mapping[str, Any]) -> None:
        """Add a published event; a repetition of its `event_id` changes `published` only, as its first time counts.

        Args:
            event: the fields of `Event`, as Python values or as read from JSON. `event_id`, `occurred_at`, `user_id`
                and `agent_id` are required; the values must be ones that ingest accepts. For an event that was
                published without a time, give that of its first delivery; for one whose cost a price list fills in,
                give that cost.
        """
        self.published += 1
        event_id = str(event["event_id"])
        if event_id in self._event_ids:
            return
        self._event_ids.add(event_id)
        time = _time(event["occurred_at"])
        row = self.rows.setdefault((_uuid(event["user_id"]), _uuid(event["agent_id"])), ExpectedCounters())
        if event.get("rating") is not None:
            if row.last_rating_at is None or time > row.last_rating_at:
                row.user_rating, row.last_rating_at = _rounded(event, "rating", "1E-10"), time
            return
        row.add_usage(event)
        row.first_used_at = time if row.first_used_at is None else min(row.first_used_at, time)
        row.last_used_at = time if row.last_used_at is None else max(row.last_used_at, time)

    def differences(self, actual: Iterable[Mapping[str, Any]]) -> list[str]:
        """Compare rows of `user_agents` with the expected ones.

        Args:
            actual: all rows, each with `user_id`, `agent_id` and `COUNTER_COLUMNS`.

        Returns:
            One line for each column that differs and for each missing row; empty if the counters are exact. A row
            that no event names is allowed if it has counted nothing.
        """
        lines, missing = [], set(self.rows)
        for row in actual:
            pair = row["user_id"], row["agent_id"]
            missing.discard(pair)
            if pair not in self.rows and row["usage_count"] == 0:
                continue
            expected = self.rows.get(pair, ExpectedCounters())
            lines += [
                f"{pair[0]} {pair[1]} {column}: {row[column]} instead of {getattr(expected, column)}"
                for column in COUNTER_COLUMNS
                if row[column] != getattr(expected, column)
            ]
        return lines + [f"{user} {agent}: no row" for user, agent in missing]


def _uuid(value: UUID | str) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)


def _rounded(event: Mapping[str, Any], name: str, step: str, default: int | Decimal = 0) -> Decimal:
    """Return a number, rounded half-even, or the default where it is unknown."""
    value = event.get(name)
    number = Decimal(default) if value is None else Decimal(str(value))
    return number.quantize(Decimal(step), ROUND_HALF_EVEN)


def _time(value: datetime | str | float) -> datetime:
    if isinstance(value, datetime):
        return value
    return datetime.fromisoformat(value) if isinstance(value, str) else datetime.fromtimestamp(value, UTC)
