"""`usage-worker run reconcile`: compare counters, roll-up, ledger and intake totals, and repair them."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usage_worker.cli.data_age import data_age
from usage_worker.cli.external_ids import external_ids_as_json, print_external_ids
from usage_worker.cli.output import echo
from usage_worker.cli.progress import shown
from usage_worker.cli.run.ending import finish
from usage_worker.local.stopping import leave_on_signal
from usage_worker.maintenance.differences import ReconcileReport
from usage_worker.maintenance.reconcile import RECONCILE, Scope
from usage_worker.maintenance.reconcile import reconcile as do_reconcile
from usage_worker.maintenance.task_run import run_task
from usage_worker.settings import load_settings
from usage_worker.store.connection import Store
from usage_worker.store.external_ids import external_ids_in
from usage_worker.wording import counted

if TYPE_CHECKING:
    from usage_worker.cli.external_ids import ExternalIdsByKind
    from usage_worker.maintenance.differences import Difference

Repair = Annotated[
    bool,
    typer.Option(
        "--repair", help="Set days to the sums of the ledger, and counters to those of the days. Lowers no counter."
    ),
]
Accept = Annotated[
    bool,
    typer.Option(
        "--accept-unexplained",
        help="Repair, and record as opening balance what neither ledger nor days explain. Not with --from or --to.",
    ),
]
From = Annotated[datetime | None, typer.Option("--from", metavar="DAY", formats=["%Y-%m-%d"], help="First UTC day.")]
To = Annotated[datetime | None, typer.Option("--to", metavar="DAY", formats=["%Y-%m-%d"], help="Last UTC day.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


def reconcile(
    repair: Repair = False,
    accept_unexplained: Accept = False,
    first: From = None,
    last: To = None,
    as_json: AsJson = False,
) -> None:
    """Compare counters, roll-up, ledger and intake totals, and print every difference; exit with 1 if one remains.

    Counting may continue meanwhile, and Ctrl-C stops it without harm.
    """
    settings = load_settings()
    scope = Scope(first.date() if first else None, last.date() if last else None)
    report, done = ReconcileReport(), dict[str, Any]()
    named: ExternalIdsByKind = {}
    age: float | None = None
    with (
        Store.of(settings) as store,
        Store.for_reports(settings) as reports,
        leave_on_signal() as stop,
        shown("reconcile") as on_progress,
    ):
        work = partial(
            do_reconcile,
            store,
            settings,
            scope,
            repair=repair,
            accept_unexplained=accept_unexplained,
            replica=reports if reports.is_replica else None,
            on_progress=on_progress,
            report=report,
        )
        if not (repair or accept_unexplained):
            age = data_age(reports)
        done = run_task(store, RECONCILE, work, report)
        named = external_ids_in(store, " ".join(f"{it.user_id} {it.agent_id}" for it in report.differences))
    differences = [difference._asdict() for difference in report.differences]
    figures = report.as_dict() | {"differences": differences, "external_ids": external_ids_as_json(named)}
    figures["data_age_seconds"] = age
    show = partial(_show, report, named, accepted=accept_unexplained)
    problem = bool(report.left)
    finish(RECONCILE, done, show, as_json=as_json, interrupted=stop.is_set, figures=figures, problem=problem)


def _show(report: ReconcileReport, named: ExternalIdsByKind, *, accepted: bool) -> None:
    for difference in report.differences:
        echo(_line(difference, accepted=accepted))
    print_external_ids(named)
    unexplained = f", {report.unexplained:,} of them unexplained" if report.unexplained else ""
    echo(
        f"{counted(report.checked, 'pair')} and {counted(report.days, 'day')} compared:"
        f" {counted(len(report.differences), 'difference')}, {report.left:,} left{unexplained}"
    )
    if report.hours:
        echo(
            f"{counted(report.hours, 'hour')} of agents differed; the next usage-worker run refresh rolls them up again"
        )


def _line(it: Difference, *, accepted: bool) -> str:
    where = " ".join(filter(None, (it.user_id, it.agent_id, it.day))) or "intake totals"
    then = "recorded as opening balance" if accepted else "--accept-unexplained records it as opening balance"
    return f"{where} {it.column}: {it.found} instead of {it.expected}" + (f", unexplained: {then}" * it.unexplained)
