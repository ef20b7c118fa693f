"""`usage-worker anomalies`: hours that differ from the same hours of the weeks before, and what that means."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usage_worker.cli.data_age import data_age
from usage_worker.cli.output import echo, print_json, print_rows
from usage_worker.maintenance.anomalies import ANOMALIES
from usage_worker.maintenance.anomaly_words import figures, meaning, subject
from usage_worker.settings import load_settings
from usage_worker.store.agents import require_agent
from usage_worker.store.anomalies import anomalies as find
from usage_worker.store.anomalies import require_anomalies
from usage_worker.store.connection import Store
from usage_worker.store.task_runs import last_runs
from usage_worker.wording import utc

if TYPE_CHECKING:
    from uuid import UUID

    from usage_worker.store.anomalies import Anomaly
    from usage_worker.store.task_runs import TaskRun

HEADINGS = ("agent", "kind", "since", "until", "observed", "expected", "z", "meaning")
FIGURES = ("observed", "expected", "z")
Days = Annotated[int, typer.Option(min=1, max=36_500, help="Show those that are open or ended within so many days.")]
Agent = Annotated[
    str | None,
    typer.Option(metavar="ID", help="Show this agent's only: a UUID, your own id, or its name if only one has it."),
]
Open = Annotated[bool, typer.Option("--open", help="Show only those that have not ended.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the anomalies and the last judgement as JSON.")]


def anomalies(days: Days = 7, agent: Agent = None, only_open: Open = False, as_json: AsJson = False) -> None:
    """Show when cost, errors, latency or silence were far from the same hours of the weeks before, newest first."""
    settings = load_settings()
    with Store.for_reports(settings) as store:
        age = data_age(store)
        require_anomalies(store)
        found = find(store, days, None if agent is None else _id_of(store, agent), only_open=only_open)
        run = last_runs(store).get(ANOMALIES)
    if as_json:
        print_json(
            {"anomalies": [_as_dict(it) for it in found], "judgement": run and run.report, "data_age_seconds": age}
        )
    elif found:
        print_rows(HEADINGS, map(_cells, found), figures=FIGURES, headings_in_lines=True)
    else:
        echo(f"no anomaly {'is open' if only_open else f'within {days} days'}; {judgement(run)}")


def judgement(run: TaskRun | None) -> str:
    """Say until when hours are judged, or when the first can be; `run` is the last run of the task."""
    if run is None:
        return f"nothing is judged yet: {ANOMALIES} has not run"
    if (begin := run.report["judged_from"]) is None:
        return "nothing is judged yet: no hour with uses is known"
    first, until = datetime.fromisoformat(begin), datetime.fromisoformat(run.report["judged_until"])
    if first >= until:
        return f"nothing is judged before {utc(first)}, four weeks after the first use"
    new = run.report["new_agents"]
    others = f"; {new:,} agents have less than four weeks of history and are not judged" if new else ""
    return f"hours of {run.report['agents']:,} agents are judged until {utc(until)}{others}"


def _id_of(store: Store, agent: str) -> UUID:
    with store.connection() as connection:
        return require_agent(connection, agent)[0]


def _cells(anomaly: Anomaly) -> list[str]:
    until = "" if anomaly.ended_at is None else utc(anomaly.ended_at)
    return [
        subject(anomaly),
        anomaly.kind,
        utc(anomaly.started_at),
        until,
        *figures(anomaly),
        f"{anomaly.z:.1f}",
        meaning(anomaly),
    ]


def _as_dict(anomaly: Anomaly) -> dict[str, Any]:
    """Return the fields of an anomaly, with its meaning; `agent` is null for the total and where it was deleted."""
    return anomaly.as_dict() | {"meaning": meaning(anomaly)}
