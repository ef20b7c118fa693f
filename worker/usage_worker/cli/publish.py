"""`usage-worker publish`: events from a file, for imports, replays of recordings and tests."""

from __future__ import annotations

import io
import os
import sys
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal, TextIO, cast

import typer
from rich.console import Console
from rich.progress import Progress

from usage_worker.cli.output import echo
from usage_worker.cli.publishing import assignments, finish, open_publisher
from usage_worker.cli.times import utc_time
from usage_worker.errors import ArgumentError, EventRefusedError
from usage_worker.publisher import spend_logs
from usage_worker.publisher.event_files import open_text
from usage_worker.publisher.field_mapping import FieldMapping
from usage_worker.publisher.file_import import BACKFILL_FLUSH_SECONDS, FLUSH_SECONDS, publish_file
from usage_worker.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import WriteableBuffer

File = Annotated[
    str,
    typer.Argument(metavar="FILE|-", help="NDJSON, a JSON array, or *.csv and *.tsv with a header line; - reads JSON."),
]
AsCsv = Annotated[bool, typer.Option("--csv", help="Read CSV, whatever the name of the file.")]
Map = Annotated[list[str] | None, typer.Option("--map", metavar="FIELD=COLUMN", help="Name of a field in the file.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Give every event this value.")]
AssumeUtc = Annotated[bool, typer.Option("--assume-utc", help="Read times without a zone as UTC.")]
StartAt = Annotated[
    datetime | None,
    typer.Option(
        metavar="TIME",
        parser=utc_time,
        help="Move all times so that the first event happens then (UTC without an offset);"
        " for recordings older than USAGE_ACCEPT_DAYS.",
    ),
]
DrawPairs = Annotated[
    int,
    typer.Option(
        min=0,
        help="Draw user and agent from this number of pairs (Zipf, repeatable); for recordings without users.",
    ),
]
Backfill = Annotated[
    bool,
    typer.Option(
        "--backfill",
        help="Take events older than USAGE_ACCEPT_DAYS, while the ledger keeps their day (USAGE_RETENTION_DAYS); each"
        " needs its own time.",
    ),
]
From = Annotated[
    Literal["litellm-spend-logs"] | None,
    typer.Option(
        "--from",
        help="Read an export of this table: of LiteLLM_SpendLogs the request_id is the event_id, startTime (UTC) the"
        " time, spend the cost, user the user, metadata.agent_id the agent; --map and --set override.",
    ),
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
    backfill: Backfill = False,
    source: From = None,
    as_json: AsJson = False,
) -> None:
    """Publish a file of events; report each bad line with its number, publish the others, and exit with 1 then.

    A line with a time but without event_id gets its identity from its place and text: published again, the same file
    counts nothing twice. With --backfill the events that are too old are counted, not listed.
    """
    settings = load_settings()
    mapping = FieldMapping(
        (spend_logs.COLUMNS if source else {}) | assignments("--map", columns),
        assignments("--set", constants),
        assume_utc or source is not None,
        start_at,
        draw_pairs,
        spend_logs.read_row if source else None,
    )
    is_csv = csv or Path(file).suffix.lower() in (".csv", ".tsv")
    backfill_days = settings.retention_days if backfill else None
    with open_publisher(settings, backfill=backfill) as publisher, _opened(file) as text:
        report = publish_file(
            publisher,
            text,
            mapping,
            settings.accept_window,
            _on_problem,
            is_csv=is_csv,
            backfill_days=backfill_days,
            timeout=BACKFILL_FLUSH_SECONDS if backfill else FLUSH_SECONDS,
        )
    finish(
        report.sent,
        report.bad,
        "bad line",
        as_json=as_json,
        too_old=report.too_old,
        keeps_days=backfill_days,
        left_out=report.left_out if source else None,
    )


def _on_problem(number: int, error: EventRefusedError) -> None:
    echo(f"line {number}: {error}", err=True)


class _File(io.FileIO):
    """An unbuffered file, to send lines as they arrive; a device or a network can fail long after it was opened."""

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise ArgumentError(f"{self.name or '-'}: {error.strerror}") from None


@contextmanager
def _opened(file: str) -> Iterator[TextIO]:
    """Open the file as text, with a progress bar on a terminal."""
    if file == "-":
        # Where the process began without it, a connection can have the descriptor 0 by now.
        if not sys.stdin:
            raise ArgumentError("-: standard input is closed")
        # Not closed: standard input is not ours.
        with _File(0, closefd=False) as source:
            yield open_text(io.BufferedReader(source))
        return
    with ExitStack() as stack:
        try:
            # Once: the writer of a named pipe gets SIGPIPE when its reader closes it.
            opened = stack.enter_context(_File(file))
        except OSError as error:
            raise ArgumentError(f"{file}: {error.strerror}") from None
        console = Console(stderr=True)
        progress = stack.enter_context(Progress(console=console, disable=not console.is_terminal))
        shown = progress.wrap_file(cast("BinaryIO", opened), os.fstat(opened.fileno()).st_size)
        yield open_text(io.BufferedReader(cast("io.RawIOBase", shown)))
