"""`usage-worker publish`: events from a file, for imports, replays and tests."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer
from rich.console import Console
from rich.progress import Progress

from worker.cli.lines import Line, Reading, read_lines
from worker.errors import EventRefusedError, SettingsError, StreamUnavailableError
from worker.events import Window, make_event
from worker.publisher import UsagePublisher
from worker.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# Waiting for Redis this often keeps the publisher's buffer far from its bound, where it would drop events.
FLUSH_EVERY = 10_000
FLUSH_SECONDS = 60.0

File = Annotated[str, typer.Argument(metavar="FILE|-", help="NDJSON, or *.csv with a header line; - reads NDJSON.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="The input is CSV, whatever it is called.")]
Map = Annotated[list[str] | None, typer.Option("--map", metavar="FIELD=COLUMN", help="What a field is called there.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of every event.")]
AssumeUtc = Annotated[bool, typer.Option("--assume-utc", help="Read times without a zone as UTC.")]
StartAt = Annotated[
    datetime | None,
    typer.Option(
        formats=["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d"],
        help="Move all times so that the first event happens then (UTC); for recordings older than the window.",
    ),
]
DrawPairs = Annotated[
    int,
    typer.Option(min=0, help="Draw user and agent from so many pairs, Zipf, always alike; for recordings of nobody."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]


def publish(
    file: File,
    csv: AsCsv = False,
    columns: Map = None,
    constants: Set = None,
    assume_utc: AssumeUtc = False,
    start_at: StartAt = None,
    draw_pairs: DrawPairs = 0,
    as_json: AsJson = False,
) -> None:
    """Publish a file of events. A bad line is reported with number and reason, the others go; exit code 1 then.

    A line with a time but without event_id takes its identity from its place and text: published again, the same file
    counts nothing twice.
    """
    reading = Reading(
        dict(map(_assignment, columns or [])),
        dict(map(_assignment, constants or [])),
        assume_utc,
        start_at.replace(tzinfo=UTC) if start_at else None,
        draw_pairs,
    )
    with _opened(file) as source, UsagePublisher() as publisher:
        sent, bad = _publish(publisher, reading.events(read_lines(source, is_csv=csv or file.endswith(".csv"))))
        _await_sent(publisher)
    typer.echo(json.dumps({"sent": sent, "bad": bad}) if as_json else f"{sent} events sent, {bad} bad lines")
    if bad:
        raise typer.Exit(1)


def _publish(publisher: UsagePublisher, lines: Iterator[Line]) -> tuple[int, int]:
    window = Window.around(datetime.now(UTC), load_settings().accept_window)
    sent = bad = 0
    for line in lines:
        try:
            if line.problem:
                raise EventRefusedError(line.problem)
            event = make_event(line.fields, window)
        except EventRefusedError as error:
            bad += 1
            typer.echo(f"line {line.number}: {error}", err=True)
            continue
        publisher.send(event)
        sent += 1
        if sent % FLUSH_EVERY == 0:
            _await_sent(publisher)
    return sent, bad


def _await_sent(publisher: UsagePublisher) -> None:
    if not publisher.flush(FLUSH_SECONDS):
        raise StreamUnavailableError(publisher.stats().holding or f"not everything was sent in {FLUSH_SECONDS:.0f} s")


@contextmanager
def _opened(file: str) -> Iterator[TextIO]:
    """The file as text, with a progress bar on a terminal."""
    if file == "-":
        yield sys.stdin
        return
    path = Path(file)
    if not path.is_file():
        raise SettingsError(f"there is no file {file}")
    console = Console(stderr=True)
    with (
        Progress(console=console, disable=not console.is_terminal) as progress,
        progress.open(path, "r") as source,
    ):
        yield source


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"{text}: write FIELD=VALUE")
    return name, value
