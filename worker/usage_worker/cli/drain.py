"""`usage-worker drain`: count the backlog in this process, without Celery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from usage_worker.cli.output import EXIT_PROBLEM, echo, print_json
from usage_worker.ingest.drain import Drainer
from usage_worker.interrupts import EXIT_INTERRUPTED
from usage_worker.local.stopping import leave_on_signal
from usage_worker.logs import report_failure
from usage_worker.migrate import schema_version
from usage_worker.queue.unread import waiting_entries
from usage_worker.service.resources import Resources
from usage_worker.settings import load_settings

if TYPE_CHECKING:
    from usage_worker.ingest.drain import DrainReport

AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


def drain(as_json: AsJson = False) -> None:
    """Count the backlog and remove it from the streams; for a full Redis, where Celery cannot work, or an emergency.

    Counts every shard with entries, whatever USAGE_STREAM_SHARDS is, and goes on where one of them fails.
    Waits for the entries of a dead worker until they may be reclaimed (USAGE_RECLAIM_IDLE). `left` is the number of
    entries that are still there, null where Redis does not tell it: they arrived in the meantime, another worker has
    read them, or others hold their rows. Exits with 1 where some were there at the start; `problem` says why.
    """
    settings = load_settings()
    # A signal ends it in order, so that what it held does not look like what ended it.
    with leave_on_signal() as stop, Resources(settings) as resources:
        # Checked before the first read, since entries that were read and not counted stay pending for a while. The
        # direct connection names the error; a pool only reports that it waited.
        schema_version(settings.require_database(), pooled=settings.pooled)
        resources.store.intake_totals()
        drainer = Drainer(resources.stream, resources.flusher, settings.reclaim_idle)
        beyond = waiting_entries(resources.stream, settings.stream_shards)
        shards = (*range(settings.stream_shards), *beyond)
        # A signal cancels the statement under way, which is then the problem of its shard; no further one begins.
        reports = [drainer.drain(shard) for shard in shards if not stop.is_set]
    if stop.is_set:
        raise typer.Exit(EXIT_INTERRUPTED)
    if as_json:
        print_json([report.as_dict() for report in reports])
    else:
        for report in reports:
            _show(report)
    if any(report.problem for report in reports):
        raise typer.Exit(EXIT_PROBLEM)


def _show(report: DrainReport) -> None:
    """Print the figures of a shard, or, where entries are left that should not be, report them with the reason."""
    flushed, intake = report.flushed, report.flushed.intake
    left = "entries left unknown" if report.left is None else f"{_entries(report.left)} left"
    line = (
        f"shard {flushed.shard}: {intake.applied:,} applied, {intake.duplicate:,} duplicate, "
        f"{intake.quarantined:,} quarantined in {flushed.seconds:.1f} s; {left}"
    )
    if report.problem:
        report_failure(f"{line}: {report.problem}")
    else:
        echo(line)


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{number:,} entries"
