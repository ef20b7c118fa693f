"""What the counters must say, worked out in plain Python from what was published. Shares no code with ingest."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass
class Expected:
    """The columns of one row of `user_agents` that events decide."""

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

    @property
    def conversation_count(self) -> int:
        return len(self.conversations)

    @property
    def avg_response_time_ms(self) -> int | None:
        if not self.response_time_samples:
            return None
        average = Decimal(self.response_time_total_ms) / self.response_time_samples
        return int(average.quantize(Decimal(1), ROUND_HALF_UP))

    @property
    def quality_score(self) -> Decimal:
        """0.5 · rating (or 3) + 0.3 · 5 · success rate + 0.2 · tier of use."""
        outcomes = self.success_count + self.error_count
        rate = Decimal(5 * self.success_count) / outcomes if outcomes else Decimal(0)
        tiers = ((100, "5.0"), (50, "4.5"), (20, "4.0"), (10, "3.5"), (5, "3.0"), (0, "2.5"))
        tier = next((Decimal(score) for above, score in tiers if self.usage_count > above), Decimal(0))
        rating = Decimal(3) if self.user_rating is None else self.user_rating
        score = Decimal("0.5") * rating + Decimal("0.3") * rate + Decimal("0.2") * tier
        return score.quantize(Decimal("0.01"), ROUND_HALF_UP)


COLUMNS = (
    *(
        "usage_count",
        "message_count",
        "conversation_count",
        "success_count",
        "error_count",
        "total_tokens_used",
    ),
    *("total_cost_usd", "response_time_total_ms", "response_time_samples", "avg_response_time_ms"),
    *("first_used_at", "last_used_at", "user_rating", "last_rating_at", "quality_score"),
)


class Oracle:
    """Adds up events as dictionaries of JSON-like or Python values."""

    def __init__(self) -> None:
        self.rows: dict[tuple[UUID, UUID], Expected] = {}
        self._seen: set[str] = set()
        self.published = 0

    @property
    def distinct(self) -> int:
        """How many different events there were."""
        return len(self._seen)

    def add(self, event: Mapping[str, Any]) -> None:
        """Count an event once, however often it is added."""
        self.published += 1
        if str(event["event_id"]) in self._seen:
            return
        self._seen.add(str(event["event_id"]))
        when = event["occurred_at"]
        when = datetime.fromisoformat(when) if isinstance(when, str) else when
        row = self.rows.setdefault((_uuid(event["user_id"]), _uuid(event["agent_id"])), Expected())
        if event.get("rating") is not None:
            if row.last_rating_at is None or when > row.last_rating_at:
                row.user_rating, row.last_rating_at = Decimal(str(event["rating"])), when
            return
        _use(row, event, when)

    def differences(self, actual: Iterable[Mapping[str, Any]]) -> list[str]:
        """Where rows of `user_agents` (with `COLUMNS` and the ids) say something else, one line each."""
        lines, missing = [], set(self.rows)
        for row in actual:
            pair = row["user_id"], row["agent_id"]
            missing.discard(pair)
            expected = self.rows.get(pair, Expected())
            lines += [
                f"{pair[0]} {pair[1]} {column}: {row[column]} instead of {getattr(expected, column)}"
                for column in COLUMNS
                if row[column] != getattr(expected, column) and not (pair not in self.rows and row["usage_count"] == 0)
            ]
        return lines + [f"{user} {agent}: no row" for user, agent in missing]


def _use(row: Expected, event: Mapping[str, Any], when: datetime) -> None:
    row.usage_count += 1
    row.message_count += event.get("messages", 1)
    if event.get("success", True):
        row.success_count += 1
    else:
        row.error_count += 1
    tokens = event.get("tokens")
    total = event.get("input_tokens", 0) + event.get("output_tokens", 0)
    row.total_tokens_used += total if tokens is None else tokens
    if event.get("cost_usd") is not None:
        row.total_cost_usd += Decimal(str(event["cost_usd"]))
    if event.get("response_time_ms") is not None:
        row.response_time_total_ms += event["response_time_ms"]
        row.response_time_samples += 1
    row.first_used_at = when if row.first_used_at is None else min(row.first_used_at, when)
    row.last_used_at = when if row.last_used_at is None else max(row.last_used_at, when)
    if event.get("conversation_id") is not None:
        row.conversations.add(_uuid(event["conversation_id"]))


def _uuid(value: UUID | str) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)
