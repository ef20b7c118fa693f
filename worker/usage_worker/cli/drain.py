"""`usage-worker drain`: count what waits, here and now, without Celery."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Annotated

import typer

from usage_worker.ingest import FlushReport
from usage_worker.logs import configure_logs
from usage_worker.migrate import schema_version
from usage_worker.service.resources import Resources
from usage_worker.settings import load_settings

AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]
DRAIN_SECONDS = 3600.0
POLL_SECONDS = 0.2


def drain(as_json: AsJson = False) -> None:
    """Count what waits in the stream and let go of it; for a full Redis, where Celery cannot work, or an emergency.

    What a vanished worker still holds is awaited until it may be taken over (USAGE_RECLAIM_IDLE). `left` are entries
    that came meanwhile or are in a living worker's hands.
    """
    settings = load_settings()
    configure_logs(settings)
    with Resources(settings) as resources:
        # Asked before anything is read, since what was read is locked away for a while if it cannot be counted. The
        # direct connection says what is wrong, where a pool only says that it waited.
        schema_version(settings.require_database())
        resources.store.intake_totals()
        reports = [_drain_shard(resources, shard) for shard in range(settings.stream_shards)]
        left = [resources.stream.backlog(report.shard).entries for report in reports]
    if as_json:
        figures = [report.as_dict() | {"left": rest} for report, rest in zip(reports, left, strict=True)]
        typer.echo(json.dumps(figures))
        return
    for report, rest in zip(reports, left, strict=True):
        intake = report.intake
        typer.echo(
            f"shard {report.shard}: {intake.applied} applied, {intake.duplicate} duplicate, "
            f"{intake.quarantined} quarantined in {report.seconds:.1f} s; {rest} entries left"
        )


def _drain_shard(resources: Resources, shard: int) -> FlushReport:
    started = time.monotonic()
    deadline = started + resources.settings.reclaim_idle + 1
    if not resources.stream.backlog(shard).entries:
        return FlushReport(shard)  # a full Redis would refuse the consumer group that a first read creates
    report = resources.flusher.flush(shard, DRAIN_SECONDS)
    while resources.stream.backlog(shard).pending and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        more = resources.flusher.flush(shard, DRAIN_SECONDS)
        report = replace(report, batches=report.batches + more.batches, intake=report.intake + more.intake)
    return replace(report, seconds=time.monotonic() - started)
