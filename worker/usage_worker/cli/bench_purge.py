"""`usage-worker bench purge`: how long events wait while a million rows are purged."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from usage_worker.bench.purge import run_purge
from usage_worker.cli.outcome import AsJson, run_shown, totals_verdict

if TYPE_CHECKING:
    from usage_worker.bench.purge import PurgeResult

Rows = Annotated[int, typer.Option(min=10, help="Soft-deleted rows to purge.")]
Events = Annotated[int, typer.Option(min=1_000, help="Events to count meanwhile.")]
Pairs = Annotated[int, typer.Option(min=10, help="Rows in user_agents that are not deleted.")]
Share = Annotated[float, typer.Option(min=0.01, max=1, help="Rate of the events as a share of the maximum.")]


def purge(
    rows: Rows = 1_000_000,
    events: Events = 1_000_000,
    pairs: Pairs = 100_000,
    share: Share = 0.5,
    as_json: AsJson = False,
) -> None:
    """Measure how long events wait to be counted while deleted rows are purged, and check every total."""
    run_shown(partial(run_purge, rows, events, pairs, share), _show, as_json=as_json)


def _show(result: PurgeResult) -> None:
    Console(highlight=False).print(
        f"{result.purged:,} rows purged in {result.purge_seconds:.0f} s\n"
        f"meanwhile, for {result.paced_seconds:.0f} s, {result.paced_per_second:,.0f} events per second "
        f"(maximum {result.events_per_second:,.0f}): "
        f"event to visible p50 {result.visible_p50_ms:,.0f} ms, p99 {result.visible_p99_ms:,.0f} ms "
        f"(p99 {result.quiet_p99_ms:,.0f} ms without a purge)\n"
        f"{totals_verdict(result)}"
    )
