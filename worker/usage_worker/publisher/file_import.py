"""Publish a file of events, for imports and replays of recordings."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from usage_worker.errors import EventRefusedError, StreamUnavailableError
from usage_worker.events.event import Window
from usage_worker.events.wire import prepare
from usage_worker.publisher.event_files import read_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta
    from typing import TextIO

    from usage_worker.events.external_ids import ExternalIds
    from usage_worker.events.wire import Prepared
    from usage_worker.publisher.event_files import Line
    from usage_worker.publisher.field_mapping import FieldMapping
    from usage_worker.publisher.publisher import UsagePublisher

# Waiting for Redis this often keeps the publisher's buffer far from its bound, where it would drop events.
FLUSH_EVERY = 10_000
FLUSH_SECONDS = 60.0


class ImportReport(NamedTuple):
    """Numbers of events that were sent, and of lines that were not."""

    sent: int
    bad: int


def publish_file(
    publisher: UsagePublisher,
    file: TextIO,
    mapping: FieldMapping,
    accept_window: timedelta,
    on_problem: Callable[[int, EventRefusedError], None],
    *,
    is_csv: bool = False,
    timeout: float = FLUSH_SECONDS,
) -> ImportReport:
    """Publish the events of an NDJSON or CSV file, and wait until Redis has them.

    The file was opened by `event_files.open_text`. `on_problem` gets the number of each bad line, from 1,
    and the reason. Redis may take `timeout` seconds for the buffered events.

    Raises:
        SettingsError: the CSV file has no header line, or lacks a column that `mapping` names.
        StreamUnavailableError: Redis did not take the events in time.
    """
    lines = mapping.events(read_lines(file, is_csv=is_csv, wanted=mapping.columns.values()))
    report = _publish(publisher, lines, accept_window, on_problem, timeout)
    _await_sent(publisher, timeout)
    return report


def _publish(
    publisher: UsagePublisher,
    lines: Iterator[Line],
    accept_window: timedelta,
    on_problem: Callable[[int, EventRefusedError], None],
    timeout: float,
) -> ImportReport:
    sent = bad = 0
    for line in lines:
        try:
            event = _event(line, accept_window, publisher.ids)
        except EventRefusedError as error:
            on_problem(line.number, error)
            bad += 1
            continue
        while not publisher.send(event):
            _await_sent(publisher, timeout)
        sent += 1
        if sent % FLUSH_EVERY == 0:
            _await_sent(publisher, timeout)
    return ImportReport(sent, bad)


def _event(line: Line, accept_window: timedelta, ids: ExternalIds | None) -> Prepared:
    if line.problem:
        raise EventRefusedError(line.problem)
    # A window for each line, since a pipe may stay open for days.
    return prepare(line.fields, Window.around(datetime.now(UTC), accept_window), ids)


def _await_sent(publisher: UsagePublisher, timeout: float) -> None:
    if not publisher.flush(timeout):
        raise StreamUnavailableError(
            f"{publisher.stats().buffered} events were not sent in {timeout:.0f} s; publish the file again when Redis"
            " is available: lines with a time are not counted twice"
        )
