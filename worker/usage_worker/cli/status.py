"""`usage-worker status`: what is wrong and what to do about it, then the figures."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.text import Text

from usage_worker.cli.doctor import COLOURS
from usage_worker.cli.output import EXIT_PROBLEM, make_table, print_json, print_rows
from usage_worker.errors import SettingsError
from usage_worker.local.stopping import leave_on_signal
from usage_worker.monitoring.status import checked_settings, collect_status, wrong_settings
from usage_worker.service.process_record import COUNTING
from usage_worker.wording import short_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.cli.output import Cell
    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Figures
    from usage_worker.monitoring.status import SystemStatus

WATCH_SECONDS = 1.0
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object (with --watch: one per line).")]
Watch = Annotated[bool, typer.Option("--watch", help="Show the status every second until Ctrl-C.")]


def status(as_json: AsJson = False, watch: Watch = False) -> None:
    """Show what is wrong with its remedy, then backlog, processes, totals, partitions; exit with 1 if a check fails."""
    try:
        settings = checked_settings()
    except SettingsError as error:
        if not as_json:
            raise
        _show(wrong_settings(error), as_json=True)
        raise typer.Exit(EXIT_PROBLEM) from None
    current = collect_status(settings)
    if not watch:
        _show(current, as_json=as_json)
        raise typer.Exit(0 if current.healthy else EXIT_PROBLEM)
    with leave_on_signal() as stop, Live(auto_refresh=False) as live:
        while not stop.is_set:
            if as_json:
                _show(current, as_json=True)
            else:
                live.update(make_table((), _rows(current)), refresh=True)
            time.sleep(WATCH_SECONDS)
            current = collect_status(settings)


def _show(current: SystemStatus, *, as_json: bool) -> None:
    if as_json:
        print_json(current.as_dict())
    else:
        print_rows((), _rows(current))


def _rows(current: SystemStatus) -> Iterator[tuple[str, Cell]]:
    for check in current.problems:
        yield check.name, _problem(check)
    yield from _queue(current.figures)
    yield from _database(current.figures)


def _problem(check: Check) -> Text:
    return Text(f"{check.reason}: {check.remedy}", COLOURS[check.state])


def _queue(figures: Figures) -> Iterator[tuple[str, Cell]]:
    for shard, backlog in (figures.backlog or {}).items():
        waiting = (
            f"{backlog.entries:,} entries, oldest {short_seconds(backlog.oldest_seconds)}, {backlog.pending:,} pending"
        )
        yield f"backlog of shard {shard}", waiting
    for shard, flush in (figures.flushes or {}).items():
        if flush.succeeded_seconds is not None:
            yield f"flush of shard {shard}", f"succeeded {short_seconds(flush.succeeded_seconds)} ago"
    if figures.redis_memory is not None:
        yield "Redis memory", f"{figures.redis_memory:.0%} of maxmemory" if figures.redis_memory else "no limit"
    if figures.accepted_per_second is not None:
        yield "rate", f"{figures.accepted_per_second:,.0f} events/s"
    if figures.processes is not None:
        yield "workers", ", ".join(figures.workers) or "none"
        yield from _nodes(figures)
        beat = figures.beat_seconds
        yield "beat", "no heartbeat yet" if beat is None else f"last heartbeat {short_seconds(beat)} ago"


def _nodes(figures: Figures) -> Iterator[tuple[str, Cell]]:
    """Yield what each worker that counts has done, where there are several."""
    counting = {it.name for it in figures.alive if COUNTING in it.process.roles}
    nodes = [node for node in figures.nodes if node.name in counting]
    for node in nodes if len(nodes) > 1 else ():
        shards = f"{node.events:,} events of shards {', '.join(map(str, node.shards))}" if node.shards else "no events"
        yield node.name, f"{shards} in ten minutes; version {node.version} on {node.host or 'an unknown host'}"


def _database(figures: Figures) -> Iterator[tuple[str, Cell]]:
    if (totals := figures.totals) is not None:
        yield (
            "counted",
            f"{totals.accepted:,} accepted = {totals.applied:,} applied + {totals.duplicate:,} duplicate"
            f" + {totals.quarantined:,} quarantined",
        )
    if (waiting := figures.quarantine) is not None:
        text = f"{waiting.events:,} of the newest {waiting.total:,} events: {waiting.reason}; {waiting.remedy}"
        yield "dead letters", Text(text, "yellow")
    for table in figures.partitions or []:
        yield f"partitions of {table.table}", f"{max(table.ahead_days, 0)} days ahead"
    if figures.server is not None:
        yield "PostgreSQL", str(figures.server)
    if figures.schema is not None:
        yield "schema", figures.schema
