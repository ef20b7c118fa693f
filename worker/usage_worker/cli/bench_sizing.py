"""`usage-worker bench sizing`: what an event costs at a steady rate, and what a number of events a day needs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from usage_worker.bench.sizing import EVENTS_A_DAY, LEDGER_DAYS, run_sizing
from usage_worker.cli.outcome import AsJson, run_shown, totals_verdict
from usage_worker.cli.output import print_rows
from usage_worker.wording import short_bytes

if TYPE_CHECKING:
    from usage_worker.bench.sizing import SizingResult

Rate = Annotated[float, typer.Option(min=10, help="Events per second.")]
Seconds = Annotated[float, typer.Option(min=1, help="Seconds of each measurement.")]
Pairs = Annotated[int, typer.Option(min=10, help="Rows in user_agents.")]

HEADINGS = ("events_a_day", "cores", "WAL_a_day", f"ledger_{LEDGER_DAYS}_days", "Redis_for_an_hour")


def sizing(rate: Rate = 1_000, seconds: Seconds = 60, pairs: Pairs = 100_000, as_json: AsJson = False) -> None:
    """Measure processor time, WAL, disk and Redis' memory of an event; say what events a day need."""
    run_shown(partial(run_sizing, rate, seconds, pairs), _show, as_json=as_json)


def _show(result: SizingResult) -> None:
    rows = []
    for number in EVENTS_A_DAY:
        needs = result.needs(number)
        sizes = (needs.wal_bytes_a_day, needs.ledger_bytes, needs.redis_bytes_an_hour)
        rows.append((f"{number:,}", f"{needs.cores:.2f}", *map(short_bytes, sizes)))
    print_rows(HEADINGS, rows, figures=HEADINGS, headings_in_lines=True)
    costs = ", ".join(f"{name} {cost:.1f}" for name, cost in result.cpu_us_per_event.items())
    idle = ", ".join(f"{name} {cores:.3f}" for name, cores in result.idle_cores.items())
    Console(highlight=False).print(
        f"an event at {result.rate:,.0f}/s: {costs} µs of processor time; "
        f"{result.wal_bytes_per_event:,.0f} bytes of WAL, {result.ledger_bytes_per_event:,.0f} in the ledger, "
        f"{result.redis_bytes_per_event:,.0f} in Redis\n"
        f"idle: {idle} of a processor\n"
        f"{totals_verdict(result)}"
    )
