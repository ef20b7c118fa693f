"""`usage-worker status`: what waits, who is alive, whether the books add up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from worker.stack import leave_on_signal

if TYPE_CHECKING:
    from worker.monitoring import Status

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object (with --watch: one a line).")]
Watch = Annotated[bool, typer.Option("--watch", help="Look again every second until Ctrl-C.")]


def status(as_json: AsJson = False, watch: Watch = False) -> None:
    """Show backlog, rates, workers, beat and schema; exit with 1 when no worker or no beat is alive."""
    # Celery takes a third of a second to load, which the other commands need not wait for.
    from worker.app import app  # noqa: PLC0415
    from worker.monitoring import look  # noqa: PLC0415

    seen = look(app.control, app.resources)
    if not watch:
        _show(seen, as_json=as_json)
        raise typer.Exit(0 if seen.healthy else 1)
    with leave_on_signal() as stop, Live(auto_refresh=False) as live:
        while not stop.is_set:
            if as_json:
                _show(seen, as_json=True)
            else:
                live.update(_table(seen), refresh=True)
            seen = look(app.control, app.resources)


def _show(seen: Status, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(seen.as_dict()))
    else:
        Console().print(_table(seen))


def _table(seen: Status) -> Table:
    table = Table(show_header=False, box=None)
    for shard, backlog in seen.backlog.items():
        waiting = f"{backlog.entries:,} entries, oldest {backlog.oldest_seconds:.1f} s, {backlog.pending:,} in hand"
        table.add_row(f"backlog of shard {shard}", waiting)
    totals = seen.totals
    table.add_row("rate", f"{seen.applied_per_second:,.0f} events/s")
    table.add_row(
        "counted",
        f"{totals.accepted:,} accepted = {totals.applied:,} applied + {totals.duplicate:,} duplicate"
        f" + {totals.quarantined:,} quarantined",
    )
    table.add_row("workers", ", ".join(seen.workers) or "[red]none answers: start `usage-worker up`[/]")
    beat = "[red]no heartbeat yet[/]" if seen.beat_seconds is None else f"last heartbeat {seen.beat_seconds:.0f} s ago"
    table.add_row("beat", beat)
    table.add_row("schema", seen.schema or "[red]none: run `usage-worker migrate up`[/]")
    return table
