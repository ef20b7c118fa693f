"""`usage-worker dead-letters`: list, show, export, repair and replay what could not be counted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from usage_worker.cli.external_ids import external_ids_as_json, print_external_ids
from usage_worker.cli.output import echo, print_json, print_lines, print_rows
from usage_worker.cli.publishing import assignments, finish, open_publisher
from usage_worker.errors import ArgumentError, EventRefusedError
from usage_worker.maintenance import dead_letters
from usage_worker.settings import load_settings
from usage_worker.store import Store, external_ids_in

COLUMNS = ("id", "created_at", "events", "reason", "replayed_at")

dead_letters_app = typer.Typer(help="Show, repair and replay what could not be counted.", no_args_is_help=True)

Ids = Annotated[
    list[int] | None, typer.Argument(metavar="[ID]...", help="Numbers of dead letters.", show_default=False)
]
Id = Annotated[int, typer.Argument(metavar="ID", help="Number of a dead letter.")]
All = Annotated[bool, typer.Option("--all", help="Every dead letter that was not replayed yet.")]
Replayed = Annotated[bool, typer.Option("--replayed", help="Include those that were replayed.")]
Limit = Annotated[int, typer.Option(min=1, help="Greatest number of dead letters, the oldest first.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Set a field to this value.")]
Unset = Annotated[list[str] | None, typer.Option("--unset", metavar="FIELD", help="Remove a field.")]
Body = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Repaired body of one dead letter: a JSON event, or an array of them."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@dead_letters_app.command("list")
def list_letters(replayed: Replayed = False, limit: Limit = 100, as_json: AsJson = False) -> None:
    """List dead letters and their reasons."""
    with _store() as store:
        found = dead_letters.oldest_dead_letters(store, limit, replayed=replayed)
    if as_json:
        print_json(found)
    else:
        print_rows(COLUMNS, [[_text(dead_letter[name]) for name in COLUMNS] for dead_letter in found])


@dead_letters_app.command()
def show(letter_id: Id, as_json: AsJson = False) -> None:
    """Show one dead letter with its payload, and your own ids of the UUIDs in it."""
    with _store() as store:
        (dead_letter,) = dead_letters.dead_letters_by_id(store, [letter_id])
        named = external_ids_in(store, dead_letter["payload"])
    if as_json:
        print_json(dead_letter | {"external_ids": external_ids_as_json(named)})
        return
    print_lines((name, _text(value)) for name, value in dead_letter.items())
    print_external_ids(named)


@dead_letters_app.command()
def export(ids: Ids = None, replayed: Replayed = False) -> None:
    """Write dead letters as JSON, one per line, with every column."""
    with _store() as store:
        found = dead_letters.dead_letters_by_id(store, ids) if ids else None
        for dead_letter in found or dead_letters.all_dead_letters(store, replayed=replayed):
            print_json(dead_letter)


@dead_letters_app.command()
def replay(
    ids: Ids = None,
    every: All = False,
    constants: Set = None,
    unset: Unset = None,
    body: Body = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters again, repaired or unchanged; exit with 1 where one still cannot be counted.

    Replayed twice, an event counts once.
    """
    settings = load_settings()
    if bool(ids) == every:
        raise ArgumentError("replay: give numbers of dead letters, or --all")
    if body and len(ids or ()) != 1:
        raise ArgumentError("--body: give exactly one dead letter with it")
    edits = dead_letters.RepairEdits(
        assignments("--set", constants), frozenset(unset or ()), _read(body) if body else None
    )
    # What waited for its repair may be older than the acceptance window by now.
    with open_publisher(settings, backfill=True) as publisher, _store() as store:
        # All are read before the first is sent: an event that is quarantined again makes a new dead letter.
        found = dead_letters.dead_letters_by_id(store, ids) if ids else list(dead_letters.all_dead_letters(store))
        report = dead_letters.replay(store, publisher, found, edits, settings.retention_days, _on_problem)
    finish(report.sent, report.bad, "bad dead letter", as_json=as_json)


def _store() -> Store:
    settings = load_settings()
    return Store.of(settings)


def _on_problem(number: int, error: EventRefusedError) -> None:
    echo(f"dead letter {number}: {error}", err=True)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ArgumentError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ArgumentError(f"{path}: is not UTF-8") from None


def _text(value: object) -> str:
    return "-" if value is None else str(value)
