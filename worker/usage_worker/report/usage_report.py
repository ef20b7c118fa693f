"""The figures that a page shows, whoever has computed them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime
    from decimal import Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The totals of some uses; None is unknown, and never shown as 0.

    `total_cost_usd` sums the known costs, in US dollars; it is None where no use has one. Input and output tokens need
    not add up to `total_tokens_used`: some uses say only their total. A percentile is unknown below 20 response times.
    """

    usage_count: int
    message_count: int
    success_count: int
    error_count: int
    total_tokens_used: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    total_cost_usd: Decimal | None
    uses_without_cost: int | None
    avg_response_time_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    users: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DayTotals:
    """The totals of one day in the time zone of the report."""

    day: date
    totals: Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedTotals:
    """The totals of an agent, a user or a model. A name that nobody has given is None; an empty one was given."""

    name: str | None
    totals: Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """A report on whole days.

    Attributes:
        generated_at: of which moment the figures are, with a time zone.
        time_zone: its days are those of the report.
        user: the only user whose uses count, or None: those of all users.
        total: of the whole period; its percentiles and users are not sums of those of the days.
        days: every day of the period, ascending, also those without a use.
        agents, users, models: those with most uses, at most 20 each, descending.
    """

    generated_at: datetime
    time_zone: str
    user: str | None = None
    total: Totals
    days: Sequence[DayTotals]
    agents: Sequence[NamedTotals]
    users: Sequence[NamedTotals]
    models: Sequence[NamedTotals]
