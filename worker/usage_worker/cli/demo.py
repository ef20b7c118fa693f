"""`usage-worker demo`: publish generated traffic and compare every counter, in half a minute."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from usage_worker.cli.outcome import finish
from usage_worker.cli.output import echo
from usage_worker.demo.run import DemoResult, run_demo
from usage_worker.local.stopping import leave_on_signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from usage_worker.store import Intake

Events = Annotated[int, typer.Option(min=100, help="Number of events to publish.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


def demo(events: Events = 30_000, as_json: AsJson = False) -> None:
    """Run the whole system on embedded servers and check that every counter is exact."""
    result = None
    # Progress goes to standard error: with --json, standard output has the object only.
    console = Console(stderr=True, highlight=False)
    with leave_on_signal(), _progress(console, events) as on_progress:
        result = run_demo(events, console.print, on_progress)
    finish(result, _show, as_json=as_json)


@contextmanager
def _progress(console: Console, events: int) -> Iterator[Callable[[Intake], None]]:
    """Show how many events were counted: a bar on a terminal, a line for each fifth of the events elsewhere."""
    columns = (TextColumn("counted"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("counted", total=events)
        printed = 0

        def on_progress(intake: Intake) -> None:
            nonlocal printed
            bar.update(task, completed=min(intake.accepted, events))
            if not console.is_terminal and intake.accepted - printed >= events // 5:
                printed = intake.accepted
                console.print(f"  {intake.accepted:,} counted")

        yield on_progress


def _show(result: DemoResult) -> None:
    table = Table(show_header=False, box=None)
    table.add_row("published", f"{result.published:,}")
    table.add_row("accepted", f"{result.accepted:,} = applied + duplicate + quarantined")
    table.add_row("  applied", f"{result.applied:,}")
    table.add_row("  duplicate", f"{result.duplicate:,}")
    table.add_row("  quarantined", f"{result.quarantined:,} (a user who does not exist)")
    table.add_row(
        "events per second",
        f"{result.events_per_second:,.0f} (as published; the ceiling: usage-worker bench)",
    )
    table.add_row("event to visible", f"p50 {result.visible_p50_ms:,.0f} ms, p99 {result.visible_p99_ms:,.0f} ms")
    table.add_row("exact", "yes: every counter equals the oracle" if result.exact else "NO")
    Console(highlight=False).print(table)
    for line in result.differences[:20]:
        echo(line)
