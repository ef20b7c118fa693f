"""`usage-worker correct`: replace values of an event that was counted, with every total that it is in."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from usage_worker.cli.confirmation import confirm, require_terminal
from usage_worker.cli.output import echo, print_json, print_rows
from usage_worker.cli.publishing import assignments
from usage_worker.cli.times import utc_time
from usage_worker.events.columns import IDENTITY
from usage_worker.events.external_ids import external_ids
from usage_worker.ingest import forget_key_of
from usage_worker.ingest.namespace import require_namespace
from usage_worker.ingest.one_price import OnePrice
from usage_worker.ingest.prices import Prices
from usage_worker.maintenance.correct import Correction, await_standby, check_reason, find_event, preview
from usage_worker.maintenance.correct import correct as do_correct
from usage_worker.maintenance.corrected_event import Edits
from usage_worker.settings import load_settings
from usage_worker.store.connection import Store
from usage_worker.wording import counted

if TYPE_CHECKING:
    from usage_worker.events.external_ids import ExternalIds
    from usage_worker.settings import Settings

COLUMNS = ("field", "before", "after")
FIGURES = ("before", "after")
_KEPT = {
    "elsewhere": "its former conversation stays counted: other uses name it",
    "older uses": "its former conversation stays counted: the pair has uses that the ledger does not have",
}

Event = Annotated[str, typer.Argument(metavar="EVENT", help="The event_id: a UUID, or your own idempotency key.")]
Values = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Set a field to this value; null: unknown.")
]
At = Annotated[
    datetime | None,
    typer.Option(metavar="TIME", parser=utc_time, help="Which one, where the ledger has the id at several times."),
]
Reason = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Why, for the history; at most 500 characters, nothing personal.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; required without a terminal.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def correct(
    event: Event,
    values: Values = None,
    at: At = None,
    reason: Reason = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Replace values of an event that the ledger has; counters, days and hours follow, and the history keeps both.

    Its id, time, user, agent and type stay. Repeated, it changes nothing.
    """
    settings = load_settings()
    texts = assignments("--set", values)
    fields = {name: None if value == "null" else value for name, value in texts.items()}
    check_reason(reason)
    with Store.of(settings) as store:
        edits = Edits(fields, OnePrice(Prices(settings.prices)), _ids(store, settings))
        edits.check()
        found = find_event(store, event, at, settings.retention_days)
        wanted = preview(found, edits)
        if not (wanted.changes or dry_run):
            # What an interrupted correction has committed may not have reached the standby.
            await_standby(store, found)
        if dry_run or not wanted.changes:
            _show(wanted, is_done=False, as_json=as_json)
            return
        if not yes:
            _ask(wanted)
        _show(do_correct(store, found, edits, reason, forget_key_of(settings)), is_done=True, as_json=as_json)


def _ids(store: Store, settings: Settings) -> ExternalIds | None:
    if not settings.takes_any_id:
        return None
    require_namespace(store, settings.id_namespace)
    return external_ids(settings.id_namespace)


def _ask(wanted: Correction) -> None:
    what = f"{counted(len(wanted.changes), 'field')} of event {wanted.event['event_id']} would change"
    require_terminal(what)
    _print_changes(wanted, err=True)
    confirm(what)


def _show(correction: Correction, *, is_done: bool, as_json: bool) -> None:
    event, changes = correction.event, correction.changes
    is_corrected = is_done and bool(changes)
    if as_json:
        identity = {name: event[name] for name in IDENTITY}
        figures = {it.field: {"old": it.old, "new": it.new} for it in changes}
        kept = {"kept_conversation": correction.kept_conversation}
        print_json(identity | {"corrected": is_corrected, "changes": figures} | kept)
        return
    _print_changes(correction)
    of = f"event {event['event_id']} of {event['occurred_at'].isoformat()}"
    if not changes:
        echo(f"{of} has these values: nothing to correct")
    elif not is_done:
        echo(f"{of} would be corrected; nothing was changed")
    else:
        echo(f"{of} is corrected, and so are the totals of user {event['user_id']} and agent {event['agent_id']}")
    if correction.kept_conversation:
        echo(_KEPT[correction.kept_conversation])


def _print_changes(correction: Correction, *, err: bool = False) -> None:
    if correction.changes:
        print_rows(COLUMNS, [(it.field, it.old, it.new) for it in correction.changes], figures=FIGURES, err=err)
