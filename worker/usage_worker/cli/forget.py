"""`usage-worker forget`: erase a user."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from usage_worker.cli.confirmation import confirm, require_terminal
from usage_worker.cli.output import echo, print_json, print_rows
from usage_worker.errors import ArgumentError
from usage_worker.events.external_ids import ExternalIds, external_ids
from usage_worker.events.tombstones import ForgetKey
from usage_worker.ingest import check_forget_key, require_namespace
from usage_worker.maintenance.forget import Erasure, ForgetReport, what_names
from usage_worker.maintenance.forget_again import keep_tombstones, known_tombstones, returned
from usage_worker.maintenance.person import Person
from usage_worker.queue.waiting_events import waiting_events
from usage_worker.service.resources import Resources
from usage_worker.settings import load_settings
from usage_worker.store.external_ids import external_ids as kept_ids
from usage_worker.store.task_runs import require_owner
from usage_worker.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS = ("rows", "where")

User = Annotated[
    str | None, typer.Argument(metavar="[USER]", help="UUID of the user, or your own id.", show_default=False)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count what would be erased.")]
Again = Annotated[bool, typer.Option("--again", help="Erase whom a restored backup has brought back.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def forget(
    user: User = None, dry_run: DryRun = False, again: Again = False, yes: Yes = False, as_json: AsJson = False
) -> None:
    """Erase a user for good: everything that names the user, also events that are still to come.

    An erasure that was interrupted is finished by running the command again.
    """
    if bool(user) == again:
        raise ArgumentError("forget: give a user, or --again")
    settings = load_settings()
    key = ForgetKey(settings.require_forget_key())
    ids = external_ids(settings.id_namespace)
    with Resources(settings) as resources:
        store, connection = resources.store, resources.stream.connection
        require_owner(store)
        require_namespace(store, settings.id_namespace)
        check_forget_key(store, settings)
        known = known_tombstones(store, connection, key)
        find = partial(returned, store, known, key, ids) if again else partial(_given, resources, user or "", ids)
        if dry_run or not yes:
            people = find()
            found = what_names(store, people, ids)
            if dry_run:
                _show(found, "would be erased", _waiting(resources, people, ids), as_json=as_json)
                return
            _ask(found)
        if again:
            keep_tombstones(store, connection, known)
        people = find()  # after that: also whom batches have counted since the first look
        report = Erasure(store, connection, key, ids).erase(people, known if again else ())
        _show(report, "erased", _waiting(resources, people, ids), as_json=as_json)


def _given(resources: Resources, text: str, ids: ExternalIds) -> list[Person]:
    """Return the user of a UUID, or of an id of an application's own, which need not be known."""
    try:
        given = ids.of_text("user", text)
    except ValueError as error:
        raise ArgumentError(f"USER {error}") from None
    with resources.store.connection() as connection:
        texts = kept_ids(connection, "user", [given.id])
    return [Person(given.id, given.external_id or texts.get(given.id))]


def _waiting(resources: Resources, people: Sequence[Person], ids: ExternalIds) -> int:
    return waiting_events(resources.stream, {person.id for person in people}, ids)


def _ask(found: ForgetReport) -> None:
    rows = counted(sum(found.rows.values()), "row")
    what = f"{counted(found.users, 'user')} with {rows} would be erased for good; --dry-run lists them"
    require_terminal(what)
    confirm(what)


def _show(report: ForgetReport, verb: str, waiting: int, *, as_json: bool) -> None:
    if as_json:
        print_json(report.as_dict() | {"dry_run": verb != "erased", "waiting_events": waiting})
        return
    print_rows(COLUMNS, [(rows, name) for name, rows in report.rows.items() if rows], figures=("rows",))
    for note in report.notes:
        echo(note)
    if waiting:
        echo(f"{counted(waiting, 'event')} in the streams will be dropped when they are read")
    echo(f"{counted(report.users, 'user')} {verb}: {counted(sum(report.rows.values()), 'row')}")
