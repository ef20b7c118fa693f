"""`usage-worker publish`: events from a file, for imports, replays and tests."""

from __future__ import annotations

import json
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO, TypedDict

import typer
from rich.console import Console
from rich.progress import Progress

from usage_worker.errors import EventRefusedError, SettingsError, StreamUnavailableError
from usage_worker.events.event import FIELDS, Window
from usage_worker.events.wire import prepare
from usage_worker.logs import configure_logs
from usage_worker.publisher import UsagePublisher
from usage_worker.publisher.event_files import Line, Reading, read_lines
from usage_worker.queue.stream import EventStream
from usage_worker.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta

# Waiting for Redis this often keeps the publisher's buffer far from its bound, where it would drop events.
FLUSH_EVERY = 10_000
FLUSH_SECONDS = 60.0


class _Text(TypedDict):
    encoding: str
    errors: str
    newline: str


# Spreadsheets put a byte order mark first; bytes that are not UTF-8 become the problem of their line alone.
TEXT = _Text(encoding="utf-8-sig", errors="surrogateescape", newline="")

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
    settings = load_settings()
    configure_logs(settings)
    reading = Reading(
        dict(_assignment("--map", text) for text in columns or []),
        dict(_assignment("--set", text) for text in constants or []),
        assume_utc,
        start_at.replace(tzinfo=UTC) if start_at else None,
        draw_pairs,
    )
    with closing(EventStream(settings.redis_url, settings.stream_shards)) as stream:
        stream.memory_used()  # the publisher would wait for a Redis that is not there
    with _opened(file) as source, UsagePublisher() as publisher:
        lines = read_lines(source, is_csv=csv or Path(file).suffix.lower() == ".csv", wanted=reading.columns.values())
        sent, bad = _publish(publisher, reading.events(lines), settings.accept_window)
        _await_sent(publisher)
    typer.echo(json.dumps({"sent": sent, "bad": bad}) if as_json else f"{sent} events sent, {bad} bad lines")
    if bad:
        raise typer.Exit(1)


def _publish(publisher: UsagePublisher, lines: Iterator[Line], accept_window: timedelta) -> tuple[int, int]:
    sent = bad = 0
    for line in lines:
        # Asked for every line: a pipe may stay open for days.
        window = Window.around(datetime.now(UTC), accept_window)
        try:
            if line.problem:
                raise EventRefusedError(line.problem)
            event = prepare(line.fields, window)
        except EventRefusedError as error:
            bad += 1
            typer.echo(f"line {line.number}: {error}", err=True)
            continue
        while not publisher.send(event):
            _await_sent(publisher)
        sent += 1
        if sent % FLUSH_EVERY == 0:
            _await_sent(publisher)
    return sent, bad


def _await_sent(publisher: UsagePublisher) -> None:
    if not publisher.flush(FLUSH_SECONDS):
        raise StreamUnavailableError(
            f"{publisher.stats().buffered} events were not taken in {FLUSH_SECONDS:.0f} s; publish the file again when"
            " it is there: lines with a time are not counted twice"
        )


@contextmanager
def _opened(file: str) -> Iterator[TextIO]:
    """The file as text, with a progress bar on a terminal."""
    if file == "-":
        # Not closed: standard input is not ours.
        with open(0, **TEXT, closefd=False) as source:
            yield source
        return
    path = Path(file)
    try:
        path.open().close()
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from None
    console = Console(stderr=True)
    with (
        Progress(console=console, disable=not console.is_terminal) as progress,
        progress.open(path, "r", **TEXT) as source,
    ):
        yield source


def _assignment(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"{option} {text}: write FIELD=VALUE")
    if name not in FIELDS:
        raise SettingsError(f"{option} {text}: there is no field {name}; there are {', '.join(FIELDS)}")
    return name, value
