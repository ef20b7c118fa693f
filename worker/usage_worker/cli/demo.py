"""`usage-worker demo`: publish generated traffic, kill a worker, and compare every counter, in less than a minute."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from usage_worker.cli.outcome import AsJson, finish
from usage_worker.cli.output import echo, make_table
from usage_worker.demo.run import run_demo
from usage_worker.local.stopping import leave_on_signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usage_worker.demo.result import DemoResult, LiveCounters

Events = Annotated[int, typer.Option(min=100, help="Number of events to publish.")]
LINE_SECONDS = 1.0


def demo(events: Events = 60_000, as_json: AsJson = False) -> None:
    """Run the whole system on embedded servers, kill a worker, and check that every counter is exact."""
    result = None
    # Progress goes to standard error: with --json, standard output has the object only.
    console = Console(stderr=True, highlight=False)
    with leave_on_signal(), _progress(console, events) as on_progress:
        result = run_demo(events, console.print, on_progress)
    finish(result, _show, as_json=as_json)


@contextmanager
def _progress(console: Console, events: int) -> Iterator[Callable[[LiveCounters], None]]:
    """Show the counters: beside a bar on a terminal, in a line for each second in which they changed elsewhere."""
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=events)
        printed, last_line = 0, time.monotonic()

        def on_progress(counters: LiveCounters) -> None:
            nonlocal printed, last_line
            accepted = counters.intake.accepted
            text = f"{accepted:,} counted: {counters.tokens:,} tokens, {counters.cost_usd:,.2f} dollars"
            bar.update(task, completed=min(accepted, events), description=text)
            now = time.monotonic()
            if not console.is_terminal and accepted > printed and now >= last_line + LINE_SECONDS:
                printed, last_line = accepted, now
                console.print(f"  {text}")

        yield on_progress


def _show(result: DemoResult) -> None:
    console = Console(highlight=False)
    console.print("\nthe busiest row of user_agents_with_details:")
    console.print(make_table((), ((f"  {column}", str(value)) for column, value in result.busiest_pair.items())))
    table = Table(show_header=False, box=None)
    table.add_row("published", f"{result.published:,}")
    table.add_row("accepted", f"{result.accepted:,} = applied + duplicate + quarantined")
    table.add_row("  applied", f"{result.applied:,}")
    table.add_row("  duplicate", f"{result.duplicate:,}")
    table.add_row("  quarantined", f"{result.quarantined:,} (a user who does not exist)")
    table.add_row(
        "event to visible", f"p50 {result.visible_p50_ms:,.0f} ms, p99 {result.visible_p99_ms:,.0f} ms, before the kill"
    )
    table.add_row("backlog", f"{result.backlog_events:,} events, {result.backlog_events_per_second:,.0f} per second")
    table.add_row("exact", "yes, in spite of the kill: every counter equals the oracle" if result.exact else "NO")
    console.print(table)
    for line in result.differences[:20]:
        echo(line)
