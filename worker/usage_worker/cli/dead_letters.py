"""`usage-worker dead-letters`: what could not be counted; show it, repair it, send it again."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID, uuid5

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from usage_worker.errors import EventRefusedError, SettingsError, StreamUnavailableError
from usage_worker.events.event import FIELDS, Window
from usage_worker.events.wire import Prepared, prepare, spelled_out
from usage_worker.logs import configure_logs
from usage_worker.publisher import UsagePublisher
from usage_worker.queue.stream import EventStream, RawEntry
from usage_worker.settings import load_settings
from usage_worker.store import Store
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from usage_worker.settings import Settings

PAGE = 500
FLUSH_SECONDS = 60.0
SHOWN = ("id", "created_at", "events", "reason", "replayed_at")

dead_letters_app = typer.Typer(help="Show, repair and replay what could not be counted.", no_args_is_help=True)

Ids = Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="Numbers of letters.", show_default=False)]
Id = Annotated[int, typer.Argument(metavar="ID", help="Number of a letter.")]
All = Annotated[bool, typer.Option("--all", help="Every letter that was not replayed yet.")]
Replayed = Annotated[bool, typer.Option("--replayed", help="Also those that were replayed.")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many, the oldest first.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Give a field this value.")]
Unset = Annotated[list[str] | None, typer.Option("--unset", metavar="FIELD", help="Leave out a field.")]
Body = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A repaired body for one letter: a JSON event, or an array of them.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

DeadLetterRow = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RepairEdits:
    """How letters become events that can be counted."""

    constants: dict[str, str] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    body: str | None = None

    def events(self, dead_letter: DeadLetterRow, window: Window) -> list[Prepared]:
        """The letter's events, under the identity that they have wherever they come from.

        Raises:
            EventRefusedError: one of them still cannot be counted.
        """
        if dead_letter["events"] > 1 and self.body is None:
            raise EventRefusedError("a whole entry that could not be read; give its repaired body with --body")
        try:
            content = json.loads(dead_letter["payload"] if self.body is None else self.body, parse_float=str)
        except (ValueError, RecursionError) as error:
            raise EventRefusedError(f"is not JSON: {error}; give a repaired body with --body") from None
        items = [spelled_out(item) for item in content] if isinstance(content, list) else [content]
        if not items or not all(isinstance(item, dict) for item in items):
            raise EventRefusedError("is no event; give a repaired body with --body")
        first = int(dead_letter["position"])
        return [prepare(self._fields(dead_letter, item, first + place), window) for place, item in enumerate(items)]

    def _fields(self, dead_letter: DeadLetterRow, item: dict[str, Any], position: int) -> dict[str, Any]:
        """What ingest would have read. An event without identity or time has both from its place in the stream."""
        fields = {name: value for name, value in item.items() if name not in self.dropped} | self.constants
        if fields.get("event_id") is None:
            fields["event_id"] = uuid5(dead_letter["entry_key"], str(position))
        if fields.get("occurred_at") is None:
            fields["occurred_at"] = _entered_at(dead_letter)
        return fields


@dead_letters_app.command("list")
def list_letters(replayed: Replayed = False, limit: Limit = 100, as_json: AsJson = False) -> None:
    """List the letters and their reasons."""
    with closing(_store(load_settings())) as store:
        dead_letters = store.rows(query("dead_letters_page"), after=0, ids=None, replayed=replayed, limit=limit)
    if as_json:
        typer.echo(json.dumps([_jsonable(dead_letter) for dead_letter in dead_letters]))
        return
    console = Console()
    if not console.is_terminal:
        for dead_letter in dead_letters:
            typer.echo("\t".join(_cells(dead_letter)))
        return
    table = Table(*SHOWN, box=None)
    for dead_letter in dead_letters:
        table.add_row(*map(escape, _cells(dead_letter)))
    console.print(table)


@dead_letters_app.command()
def show(letter_id: Id, as_json: AsJson = False) -> None:
    """Show one letter with its payload."""
    with closing(_store(load_settings())) as store:
        (dead_letter,) = _named(store, [letter_id])
    if as_json:
        typer.echo(json.dumps(_jsonable(dead_letter)))
        return
    for name, value in dead_letter.items():
        typer.echo(f"{name}\t{value if value is not None else '-'}")


@dead_letters_app.command()
def export(ids: Ids = None, replayed: Replayed = False) -> None:
    """Write letters as JSON, one a line, with all that is known of them."""
    with closing(_store(load_settings())) as store:
        for dead_letter in _named(store, ids) if ids else _pages(store, replayed=replayed):
            typer.echo(json.dumps(_jsonable(dead_letter)))


@dead_letters_app.command()
def replay(
    ids: Ids = None,
    every: All = False,
    constants: Set = None,
    unset: Unset = None,
    body: Body = None,
    as_json: AsJson = False,
) -> None:
    """Send letters again, repaired or as they are; exit with 1 where one is bad.

    Replayed twice, an event counts once.
    """
    settings = load_settings()
    configure_logs(settings)
    if bool(ids) == every:
        raise SettingsError("replay: name letters, or give --all")
    if body and len(ids or ()) != 1:
        raise SettingsError("--body: goes with exactly one letter")
    repair = RepairEdits(_assignments(constants or []), frozenset(unset or ()), _read(body) if body else None)
    with closing(EventStream(settings.redis_url, settings.stream_shards)) as stream:
        stream.memory_used()  # the publisher would wait for a Redis that is not there
    with closing(_store(settings)) as store, UsagePublisher() as publisher:
        dead_letters = _named(store, ids) if ids else list(_pages(store))
        sent, bad = _replay(store, publisher, dead_letters, repair, settings)
    typer.echo(json.dumps({"sent": sent, "bad": bad}) if as_json else f"{sent} events sent, {bad} letters still bad")
    if bad:
        raise typer.Exit(1)


def _replay(
    store: Store,
    publisher: UsagePublisher,
    dead_letters: Sequence[DeadLetterRow],
    repair: RepairEdits,
    settings: Settings,
) -> tuple[int, int]:
    """Send the letters; how many events went, how many letters could not."""
    window = Window.around(datetime.now(UTC), settings.accept_window)
    sent = bad = 0
    for start in range(0, len(dead_letters), PAGE):
        done = []
        for dead_letter in dead_letters[start : start + PAGE]:
            try:
                events = repair.events(dead_letter, window)
            except EventRefusedError as error:
                bad += 1
                typer.echo(f"letter {dead_letter['id']}: {error}", err=True)
                continue
            sent += sum(publisher.send(event) for event in events)
            done.append(dead_letter["id"])
        # Marked only when they are in the stream: a crash in between replays them again, which counts nothing twice.
        if not publisher.flush(FLUSH_SECONDS) or publisher.stats().dropped:
            raise StreamUnavailableError("not everything was taken; replay again, nothing is counted twice")
        store.rows(query("mark_replayed"), ids=done)
    return sent, bad


def _store(settings: Settings) -> Store:
    return Store(settings.require_database())


def _named(store: Store, ids: Sequence[int]) -> list[DeadLetterRow]:
    """Letters by their numbers.

    Raises:
        SettingsError: there is no such letter.
    """
    wanted = sorted(set(ids))
    dead_letters = store.rows(query("dead_letters_page"), after=0, ids=wanted, replayed=True, limit=len(wanted))
    if missing := set(wanted) - {dead_letter["id"] for dead_letter in dead_letters}:
        raise SettingsError(f"there is no letter {min(missing)}")
    return dead_letters


def _pages(store: Store, *, replayed: bool = False) -> Iterator[DeadLetterRow]:
    after = 0
    while page := store.rows(query("dead_letters_page"), after=after, ids=None, replayed=replayed, limit=PAGE):
        yield from page
        after = page[-1]["id"]


def _assignments(texts: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not equals or name not in FIELDS:
            raise SettingsError(f"--set: write FIELD=VALUE, with one of {', '.join(FIELDS)}")
    return {name: value for name, _, value in pairs}


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: is not UTF-8") from None


def _entered_at(dead_letter: DeadLetterRow) -> datetime:
    """When the entry came into the stream, which is the time that ingest gives to events without one."""
    try:
        return RawEntry(dead_letter["entry_id"], {}).added_at
    except (ValueError, OverflowError):
        created_at: datetime = dead_letter["created_at"]
        return created_at


def _cells(dead_letter: DeadLetterRow) -> list[str]:
    return ["-" if dead_letter[name] is None else str(dead_letter[name]) for name in SHOWN]


def _jsonable(dead_letter: DeadLetterRow) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else str(value) if isinstance(value, UUID) else value
        for name, value in dead_letter.items()
    }
