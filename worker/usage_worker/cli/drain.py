"""`usage-worker drain`: count the backlog in this process, without Celery."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated

import typer

from usage_worker.cli.output import echo, print_json
from usage_worker.ingest import FlushReport
from usage_worker.interrupts import EXIT_INTERRUPTED
from usage_worker.local.stopping import leave_on_signal
from usage_worker.migrate import schema_version
from usage_worker.queue.unread import waiting_entries
from usage_worker.service.resources import Resources
from usage_worker.settings import load_settings

AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]
DRAIN_SECONDS = 3600.0
POLL_SECONDS = 0.2


def drain(as_json: AsJson = False) -> None:
    """Count the backlog and remove it from the streams; for a full Redis, where Celery cannot work, or an emergency.

    Counts every shard with entries, whatever USAGE_STREAM_SHARDS is.
    Waits for the entries of a dead worker until they may be reclaimed (USAGE_RECLAIM_IDLE). `left` is the number of
    entries that arrived in the meantime, that a running worker has read, or whose rows others hold.
    """
    settings = load_settings()
    # A signal ends it in order, so that what it held does not look like what ended it.
    with leave_on_signal() as stop, Resources(settings) as resources:
        # Checked before the first read, since entries that were read and not counted stay pending for a while. The
        # direct connection names the error; a pool only reports that it waited.
        schema_version(settings.require_database(), pooled=settings.pooled)
        resources.store.intake_totals()
        beyond = waiting_entries(resources.stream, settings.stream_shards)
        reports: list[FlushReport] = []
        resources.stream.each(lambda shard: reports.append(_drain_shard(resources, shard)), beyond)
        left = [resources.stream.backlog(report.shard).entries for report in reports]
    if stop.is_set:
        raise typer.Exit(EXIT_INTERRUPTED)
    if as_json:
        print_json([report.as_dict() | {"left": rest} for report, rest in zip(reports, left, strict=True)])
        return
    for report, rest in zip(reports, left, strict=True):
        intake = report.intake
        echo(
            f"shard {report.shard}: {intake.applied:,} applied, {intake.duplicate:,} duplicate, "
            f"{intake.quarantined:,} quarantined in {report.seconds:.1f} s; {rest:,} entries left"
        )


def _drain_shard(resources: Resources, shard: int) -> FlushReport:
    started = time.monotonic()
    deadline = started + resources.settings.reclaim_idle + 1
    if not resources.stream.backlog(shard).entries:
        return FlushReport(shard)  # a full Redis would refuse the consumer group that a first read creates
    resources.stream.return_skipped(shard)
    report = resources.flusher.flush(shard, DRAIN_SECONDS)
    while resources.stream.backlog(shard).pending and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        more = resources.flusher.flush(shard, DRAIN_SECONDS)
        report = replace(report, batches=report.batches + more.batches, intake=report.intake + more.intake)
    return replace(report, seconds=time.monotonic() - started)
