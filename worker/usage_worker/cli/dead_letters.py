"""`usage-worker dead-letters`: list, show, export, repair, replay and discard what could not be counted."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from usage_worker.cli.confirmation import confirm, require_terminal
from usage_worker.cli.external_ids import external_ids_as_json, print_external_ids
from usage_worker.cli.output import Form, echo, print_json, print_json_array, print_lines, print_rows
from usage_worker.cli.publishing import assignments, finish, open_publisher
from usage_worker.cli.times import utc_time
from usage_worker.errors import ArgumentError, EventRefusedError
from usage_worker.maintenance import dead_letter_choice as choice
from usage_worker.maintenance import dead_letters
from usage_worker.maintenance.dead_letter_choice import DeadLetterFilter
from usage_worker.maintenance.dead_letter_pages import Size, summaries, with_payloads
from usage_worker.settings import load_settings
from usage_worker.store.connection import Store
from usage_worker.store.external_ids import external_ids_in
from usage_worker.wording import counted, exact, moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.queue.letter_events import DeadLetterRow

COLUMNS = ("id", "created_at", "events", "reason", "replayed_at")
REASON_COLUMNS = ("events", "dead_letters", "first", "last", "reason")
DISCARDED = ("events", "reason")
# As many as `discard` names of what it has deleted.
MOST_REASONS = 20
FIGURES = ("id", "events", "dead_letters")
FORMS: dict[str, Form] = {
    **dict.fromkeys(("events", "dead_letters"), exact),
    **dict.fromkeys(("created_at", "replayed_at", "first", "last"), moment),
}

app = typer.Typer(help="Show, repair, replay and discard what could not be counted.", no_args_is_help=True)

Ids = Annotated[
    list[int] | None, typer.Argument(metavar="[ID]...", help="Numbers of dead letters.", show_default=False)
]
Id = Annotated[int, typer.Argument(metavar="ID", help="Number of a dead letter.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter that was not replayed yet.")]
Replayed = Annotated[bool, typer.Option("--replayed", help="Include those that were replayed.")]
Limit = Annotated[int, typer.Option(min=1, max=1_000_000, help="Greatest number of lines.")]
ByReason = Annotated[bool, typer.Option("--by-reason", help="A line for each reason, that of the most events first.")]
Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="Only those whose reason has this text in it.")]
Containing = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Only those whose payload has this text in it, such as a user's id.")
]
Since = Annotated[
    datetime | None,
    typer.Option(metavar="TIME", parser=utc_time, help="Only those quarantined then or later; UTC without an offset."),
]
Until = Annotated[
    datetime | None,
    typer.Option(metavar="TIME", parser=utc_time, help="Only those quarantined before; UTC without an offset."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Set a field of all events to this value.")
]
Unset = Annotated[list[str] | None, typer.Option("--unset", metavar="FIELD", help="Remove a field of all events.")]
Body = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Repaired body of one dead letter: a JSON event, or an array of them."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command("list")
def list_letters(
    replayed: Replayed = False,
    by_reason: ByReason = False,
    reason: Reason = None,
    containing: Containing = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List dead letters, the newest first, or their reasons; then how many there are, with how many events."""
    wanted = DeadLetterFilter(reason, containing, since, until, replayed=replayed)
    columns = REASON_COLUMNS if by_reason else COLUMNS
    with _store() as store:
        found = choice.matching(store, wanted, 0 if by_reason else limit)
        rows = choice.reasons(store, wanted, limit) if by_reason else summaries(store, found.ids)
        if as_json:
            print_json_array(rows if by_reason else with_payloads(store, (Size(it["id"], it["bytes"]) for it in rows)))
            return
        print_rows(columns, ([row[name] for name in columns] for row in rows), forms=FORMS, figures=FIGURES)
    unlisted = 0 if by_reason else found.dead_letters - len(found.ids)
    left = f"; {unlisted:,} are not listed (--limit)" if unlisted else ""
    echo(f"{_counted(found)}{left}", err=True)


@app.command()
def show(letter_id: Id, as_json: AsJson = False) -> None:
    """Show one dead letter with its payload, and your own ids of the UUIDs in it."""
    with _store() as store:
        (dead_letter,) = dead_letters.dead_letters_by_id(store, [letter_id])
        named = external_ids_in(store, dead_letter["payload"])
    if as_json:
        print_json(dead_letter | {"external_ids": external_ids_as_json(named)})
        return
    print_lines(dead_letter.items())
    print_external_ids(named)


@app.command()
def export(
    ids: Ids = None,
    reason: Reason = None,
    containing: Containing = None,
    since: Since = None,
    until: Until = None,
    replayed: Replayed = False,
) -> None:
    """Write dead letters as JSON, one per line, with every column."""
    wanted = DeadLetterFilter(reason, containing, since, until, replayed=replayed)
    if ids and wanted.is_narrow:
        raise ArgumentError("export: give numbers of dead letters or a filter such as --reason, not both")
    with _store() as store:
        for dead_letter in _read(store, ids, wanted):
            print_json(dead_letter)


@app.command()
def replay(
    ids: Ids = None,
    every: All = False,
    reason: Reason = None,
    containing: Containing = None,
    since: Since = None,
    until: Until = None,
    constants: Set = None,
    unset: Unset = None,
    body: Body = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters again, repaired or unchanged; exit with 1 where one still cannot be counted.

    Replayed twice, an event counts once. More than a hundred bad events of one entry share a dead letter, with the
    reason of the first: `show` it before you change all of them.
    """
    settings = load_settings()
    wanted = _chosen("replay", ids, DeadLetterFilter(reason, containing, since, until), every=every)
    if body and len(ids or ()) != 1:
        raise ArgumentError("--body: give exactly one dead letter with it")
    edits = dead_letters.RepairEdits(
        assignments("--set", constants), frozenset(unset or ()), _body(body) if body else None
    )
    # What waited for its repair may be older than the acceptance window by now.
    with open_publisher(settings, backfill=True) as publisher, _store() as store:
        found = _read(store, ids, wanted)
        report = dead_letters.replay(store, publisher, found, edits, settings, _on_problem)
    finish(report.sent, report.bad, "bad dead letter", as_json=as_json)


@app.command()
def discard(
    ids: Ids = None,
    every: All = False,
    reason: Reason = None,
    containing: Containing = None,
    since: Since = None,
    until: Until = None,
    replayed: Replayed = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete dead letters for good; asks first, with the number of events. `export` keeps them elsewhere before.

    Their events stay counted as quarantined. Old dead letters are deleted by themselves after USAGE_DEAD_LETTER_DAYS.
    """
    wanted = _chosen("discard", ids, DeadLetterFilter(reason, containing, since, until, replayed=replayed), every=every)
    with _store() as store:
        found = _found(store, ids, wanted)
        if found.ids and not yes:
            _confirm_deletion(found)
        groups = choice.reasons(store, DeadLetterFilter(ids=found.ids, replayed=True), MOST_REASONS)
        done = choice.discard(store, found.ids)
    if as_json:
        print_json(done._asdict() | {"reasons": {row["reason"]: row["events"] for row in groups}})
    else:
        print_rows(DISCARDED, [[row[name] for name in DISCARDED] for row in groups], forms=FORMS, figures=FIGURES)
        echo(f"{_counted(done)} deleted")


def _chosen(command: str, ids: list[int] | None, wanted: DeadLetterFilter, *, every: bool) -> DeadLetterFilter:
    """Return the filter.

    Raises:
        ArgumentError: not exactly one of numbers, filter and --all is given.
    """
    if sum((bool(ids), every, wanted.is_narrow)) != 1:
        raise ArgumentError(f"{command}: give numbers of dead letters, or --all, or a filter such as --reason")
    return wanted


def _read(store: Store, ids: list[int] | None, wanted: DeadLetterFilter) -> Iterator[DeadLetterRow]:
    return dead_letters.dead_letters_by_id(store, ids) if ids else dead_letters.matching_dead_letters(store, wanted)


def _found(store: Store, ids: list[int] | None, wanted: DeadLetterFilter) -> choice.Matching:
    if ids:
        rows = dead_letters.require_summaries(store, ids)
        return choice.Matching(len(rows), sum(row["events"] for row in rows), [row["id"] for row in rows])
    return choice.matching(store, wanted)


def _confirm_deletion(found: choice.Matching) -> None:
    what = f"{_counted(found)} would be deleted for good; `usage-worker dead-letters export` keeps them elsewhere"
    require_terminal(what)
    confirm(what)


def _counted(found: choice.Matching | choice.Discarded) -> str:
    return f"{counted(found.dead_letters, 'dead letter')} with {counted(found.events, 'event')}"


def _store() -> Store:
    settings = load_settings()
    return Store.of(settings)


def _on_problem(number: int, error: EventRefusedError) -> None:
    echo(f"dead letter {number}: {error}", err=True)


def _body(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ArgumentError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ArgumentError(f"{path}: is not UTF-8") from None
