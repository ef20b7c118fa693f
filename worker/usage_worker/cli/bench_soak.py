"""`usage-worker bench soak`: a long run with millions of events and a million pairs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from usage_worker.bench.soak import run_soak
from usage_worker.cli.outcome import AsJson, run_shown, totals_verdict

if TYPE_CHECKING:
    from usage_worker.bench.soak import SoakResult

Events = Annotated[int, typer.Option(min=1_000, help="Events to count with the greater number of rows.")]
Few = Annotated[int, typer.Option(min=10, help="The smaller number of rows in user_agents.")]
Many = Annotated[int, typer.Option(min=10, help="The greater number of rows in user_agents.")]


def soak(events: Events = 5_000_000, few: Few = 100_000, pairs: Many = 1_000_000, as_json: AsJson = False) -> None:
    """Measure a worker's memory over a long run, and the cost of ten times as many pairs; check every total."""
    run_shown(partial(run_soak, events, few, pairs), _show, as_json=as_json)


def _show(result: SoakResult) -> None:
    Console(highlight=False).print(
        f"speed at {result.pairs[1]:,} pairs: {result.speed_kept:.2f} of that at {result.pairs[0]:,}\n"
        f"worker memory after {result.events:,} events: {result.worker_mib[-1]:.0f} MiB, "
        f"{result.memory_growth:.2f} times that after the first round\n"
        f"{totals_verdict(result)}"
    )
