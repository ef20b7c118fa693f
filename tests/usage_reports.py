"""Reports for tests and for the picture in the documents, made from a seed."""

from __future__ import annotations

import math
import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from usage_worker.report.usage_report import DayTotals, NamedTotals, Totals, UsageReport

if TYPE_CHECKING:
    from collections.abc import Sequence

NOTHING = Totals(
    usage_count=0,
    message_count=0,
    success_count=0,
    error_count=0,
    total_tokens_used=0,
    input_tokens=0,
    output_tokens=0,
    cached_input_tokens=0,
    total_cost_usd=None,
    uses_without_cost=0,
    avg_response_time_ms=None,
    p50_ms=None,
    p95_ms=None,
    p99_ms=None,
    users=0,
)
COUNTS = (
    "usage_count",
    "message_count",
    "success_count",
    "error_count",
    "total_tokens_used",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "uses_without_cost",
)
AGENTS = ("Inbox triage", "Release notes", "Invoice reader", "Übersetzer", "Meeting minutes", "SQL helper", "On-call")
HOSTILE_NAMES = (
    "</script><img src=x onerror=hacked=1>",
    "<!--<script>hacked=1</script>",
    "\u202egnirts desrever\u202c",
    "x" * 255,
    "\N{FAMILY}\N{ZERO WIDTH JOINER}\N{GRINNING FACE}",
    "\"quoted\" & 'quoted'",
    "{{b}}{a}{a|styled}",
    "${hacked=1}\u2028\ud800",
    "نشانه",
    "",
    None,
)
MODELS = ("large-2", "small-3", "vision-1", None)


def some_totals(uses: int, chance: random.Random) -> Totals:
    """Return totals of so many uses, of which some have no cost."""
    errors = round(uses * chance.uniform(0.005, 0.03))
    tokens = [uses * chance.randint(*bounds) for bounds in ((900, 1_300), (200, 400))]
    median = chance.uniform(700, 900)
    return Totals(
        usage_count=uses,
        message_count=uses * 2,
        success_count=uses - errors,
        error_count=errors,
        total_tokens_used=sum(tokens) + uses * 3,
        input_tokens=tokens[0],
        output_tokens=tokens[1],
        cached_input_tokens=tokens[0] // 3,
        total_cost_usd=Decimal(sum(tokens)).scaleb(-6) + Decimal("1E-10"),
        uses_without_cost=uses // 100,
        avg_response_time_ms=median * 1.2,
        p50_ms=median,
        p95_ms=median * chance.uniform(3, 3.6),
        p99_ms=median * chance.uniform(6, 8),
        users=uses // 9,
    )


def summed(parts: Sequence[Totals], users: int) -> Totals:
    """Return the sums, with the first percentiles."""
    costs = [part.total_cost_usd for part in parts if part.total_cost_usd is not None]
    return Totals(
        **{name: sum(getattr(part, name) for part in parts) for name in COUNTS},
        total_cost_usd=sum(costs, Decimal()) if costs else None,
        avg_response_time_ms=parts[0].avg_response_time_ms if parts else None,
        p50_ms=parts[0].p50_ms if parts else None,
        p95_ms=parts[0].p95_ms if parts else None,
        p99_ms=parts[0].p99_ms if parts else None,
        users=users,
    )


def report_of(
    totals: Sequence[Totals], *, names: Sequence[str | None] = AGENTS, user: str | None = None
) -> UsageReport:
    """Return a report whose days have these totals, and whose agents and users have these names."""
    chance = random.Random(2)
    first = date(2026, 2, 1)
    named = [NamedTotals(name=name, totals=some_totals(9_000 // place, chance)) for place, name in enumerate(names, 1)]
    models = [
        NamedTotals(name=name, totals=some_totals(9_000 // place, chance)) for place, name in enumerate(MODELS, 1)
    ]
    return UsageReport(
        generated_at=datetime(2026, 3, 2, 17, 14, tzinfo=UTC),
        time_zone="Europe/Berlin",
        user=user,
        total=summed(totals, 4_321),
        days=[DayTotals(day=first + timedelta(days=day), totals=it) for day, it in enumerate(totals)],
        agents=named,
        users=named,
        models=models,
    )


def usual_report(days: int = 30) -> UsageReport:
    """Return days with weekends, growth and noise."""
    chance = random.Random(1)
    uses = [
        round((1_500 if (day + 6) % 7 < 5 else 400) * math.exp(day / 200) * chance.uniform(0.85, 1.15))
        for day in range(days)
    ]
    return report_of([some_totals(it, chance) for it in uses])
