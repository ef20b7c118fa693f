"""`usage-worker status`: the backlog, the processes that work, and whether the intake totals add up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.text import Text

from usage_worker.cli.output import EXIT_PROBLEM, make_table, print_json, print_rows
from usage_worker.local.stopping import leave_on_signal
from usage_worker.logs import configure_logs
from usage_worker.migrate import latest_version
from usage_worker.publisher import REDIS_MEMORY_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.cli.output import Cell
    from usage_worker.maintenance import PartitionCoverage
    from usage_worker.monitoring.quarantine import Quarantine
    from usage_worker.monitoring.stalls import Stall
    from usage_worker.monitoring.status import SystemStatus

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object (with --watch: one per line).")]
Watch = Annotated[bool, typer.Option("--watch", help="Show the status every second until Ctrl-C.")]


def status(as_json: AsJson = False, watch: Watch = False) -> None:
    """Show backlog, rates, workers, beat, partitions, schema; exit with 1 if one is missing or a shard stalls."""
    # Celery takes a third of a second to load, which the other commands need not wait for.
    from usage_worker.celery import app  # noqa: PLC0415
    from usage_worker.monitoring.status import collect_status  # noqa: PLC0415

    resources = app.usage_resources
    configure_logs(resources.settings)
    current = collect_status(app.control, resources)
    if not watch:
        _show(current, as_json=as_json)
        raise typer.Exit(0 if current.healthy else EXIT_PROBLEM)
    with leave_on_signal() as stop, Live(auto_refresh=False) as live:
        while not stop.is_set:
            if as_json:
                _show(current, as_json=True)
            else:
                live.update(make_table((), _rows(current)), refresh=True)
            current = collect_status(app.control, resources)


def _show(current: SystemStatus, *, as_json: bool) -> None:
    if as_json:
        print_json(current.as_dict())
    else:
        print_rows((), _rows(current))


def _rows(current: SystemStatus) -> Iterator[tuple[str, Cell]]:
    for shard, backlog in current.backlog.items():
        waiting = f"{backlog.entries:,} entries, oldest {backlog.oldest_seconds:.1f} s, {backlog.pending:,} pending"
        yield f"backlog of shard {shard}", waiting
    for stall in current.stalled:
        yield f"shard {stall.shard} is stalled", _problem(_stall(stall))
    yield "Redis memory", _memory(current.redis_memory)
    totals = current.totals
    yield "rate", f"{current.applied_per_second:,.0f} events/s"
    yield (
        "counted",
        f"{totals.accepted:,} accepted = {totals.applied:,} applied + {totals.duplicate:,} duplicate"
        f" + {totals.quarantined:,} quarantined",
    )
    if current.quarantine:
        yield "quarantined", Text(_quarantine(current.quarantine), "yellow")
    yield "workers", ", ".join(current.workers) or _problem("no worker answers: start `usage-worker up`")
    yield "beat", _heartbeat(current.beat_seconds)
    for table in current.partitions:
        yield f"partitions of {table.table}", _coverage(table)
    for name, reason in current.partitions_failed.items():
        yield f"partition {name}", _problem(f"{reason}; run `usage-worker partitions`")
    yield "schema", _schema(current.schema)


def _problem(text: str) -> Text:
    return Text(text, "red")


def _stall(stall: Stall) -> str:
    if stall.committed_seconds is None:
        silence = "nothing was ever committed"
    else:
        silence = f"nothing was committed for {stall.committed_seconds:.0f} s"
    if stall.error is None:
        return f"{silence}, and no flush failed lately: does a worker take from the queue `celery`?"
    return f"{silence}; {stall.error_seconds:.0f} s ago a flush failed: {stall.error}"


def _quarantine(waiting: Quarantine) -> str:
    return f"{waiting.events:,} of the newest {waiting.total:,} events: {waiting.reason}; {waiting.remedy}"


def _heartbeat(seconds: float | None) -> Cell:
    return _problem("no heartbeat yet") if seconds is None else f"last heartbeat {seconds:.0f} s ago"


def _coverage(table: PartitionCoverage) -> Cell:
    ahead = f"{table.ahead_days} days ahead" if table.ahead_days >= 0 else "none for today, 0 days ahead"
    return _problem(f"{ahead} of {table.wanted_days}: run `usage-worker partitions`") if table.is_short else ahead


def _schema(version: str | None) -> Cell:
    latest = latest_version()
    if version == latest:
        return latest
    return _problem(f"{version or 'none'}, and this code brings {latest}: run `usage-worker migrate up`")


def _memory(share: float) -> Cell:
    if not share:
        return "no limit"
    full = f"{share:.0%} of maxmemory"
    return full if share < REDIS_MEMORY_LIMIT else _problem(f"{full}: publishers hold back; run `usage-worker drain`")
