"""`usage-worker drain`: count what waits, here and now, without Celery."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from worker.logs import configure_logs
from worker.resources import Resources
from worker.settings import load_settings

AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]
DRAIN_SECONDS = 3600.0


def drain(as_json: AsJson = False) -> None:
    """Count what waits in the stream and let go of it; for a full Redis, where Celery cannot work, or an emergency."""
    settings = load_settings()
    configure_logs(settings)
    with Resources(settings) as resources:
        reports = [resources.flusher.flush(shard, DRAIN_SECONDS) for shard in range(settings.stream_shards)]
    if as_json:
        typer.echo(json.dumps([report.as_dict() for report in reports]))
        return
    for report in reports:
        intake = report.intake
        typer.echo(
            f"shard {report.shard}: {intake.applied} applied, {intake.duplicate} duplicate, "
            f"{intake.quarantined} quarantined in {report.seconds:.1f} s"
        )
