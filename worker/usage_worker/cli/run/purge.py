"""`usage-worker run purge`: delete the rows whose soft delete is old enough, without Celery."""

from __future__ import annotations

import re
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usage_worker.cli.output import echo
from usage_worker.cli.progress import shown
from usage_worker.cli.run.ending import finish
from usage_worker.errors import ArgumentError
from usage_worker.local.stopping import leave_on_signal
from usage_worker.maintenance.purge import PURGE, PurgeReport
from usage_worker.maintenance.purge import purge as do_purge
from usage_worker.maintenance.task_run import run_task
from usage_worker.settings import load_settings
from usage_worker.store.connection import Store
from usage_worker.store.task_runs import require_owner

if TYPE_CHECKING:
    from usage_worker.settings import Settings

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
# Longer than a run that beat has started.
WAIT_TIMEOUT_SECONDS = 60.0

DryRun = Annotated[bool, typer.Option("--dry-run", help="Count the rows that are due without deleting them.")]
OlderThan = Annotated[
    str | None,
    typer.Option(
        metavar="30d", help="Purge what was deleted longer ago; default USAGE_PURGE_AFTER_DAYS.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


def purge(dry_run: DryRun = False, older_than: OlderThan = None, as_json: AsJson = False) -> None:
    """Delete rows that were soft-deleted and not restored in time, with their children, and expired shares.

    Ctrl-C stops it without harm.
    """
    settings = load_settings()
    age = _age(older_than, settings)
    report, done = PurgeReport(), dict[str, Any]()
    with (
        Store.of(settings) as store,
        leave_on_signal() as stop,
        shown("purge") as on_progress,
    ):
        work = partial(
            do_purge,
            store,
            age,
            dry_run=dry_run,
            wait_timeout=WAIT_TIMEOUT_SECONDS,
            on_progress=on_progress,
            report=report,
        )
        if dry_run:
            require_owner(store)
            work()
        else:
            done = run_task(store, PURGE, work, report)
    show = partial(_show, report)
    finish(PURGE, done, show, as_json=as_json, interrupted=stop.is_set, figures=report.as_dict())


def _show(report: PurgeReport) -> None:
    oldest = report.oldest_remaining_seconds
    since = "" if oldest is None else f", the oldest deleted {timedelta(seconds=round(oldest))} ago"
    shares = f"; {report.expired_shares:,} expired shares" if report.expired_shares else ""
    echo(f"{report.purged:,} purged, {report.remaining:,} due{since}{shares}")


def _age(text: str | None, settings: Settings) -> timedelta:
    if text is None:
        return settings.purge_after
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if not match:
        raise ArgumentError("--older-than: write 30d, 12h, 45m or 90s")
    return timedelta(**{UNITS[match[2]]: int(match[1])})
