"""Publish a file of events, for imports and replays of recordings."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from usage_worker.errors import EventRefusedError, StreamUnavailableError
from usage_worker.events.event import Window, microseconds
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
# A backfill may have to wait until workers have counted what fills its share of Redis.
BACKFILL_FLUSH_SECONDS = 600.0


class ImportReport(NamedTuple):
    """Numbers of events that were sent, of bad lines, of events that the ledger no longer keeps, and of lines left out.

    `left_out` are those of another program that are not calls of a model.
    """

    sent: int
    bad: int
    too_old: int = 0
    left_out: int = 0


def publish_file(
    publisher: UsagePublisher,
    file: TextIO,
    mapping: FieldMapping,
    accept_window: timedelta,
    on_problem: Callable[[int, EventRefusedError], None],
    *,
    is_csv: bool = False,
    backfill_days: int | None = None,
    timeout: float = FLUSH_SECONDS,
) -> ImportReport:
    """Publish the events of a file (NDJSON, a JSON array or CSV), and wait until Redis has them.

    The file was opened by `event_files.open_text`. `on_problem` gets the number of each bad line, from 1,
    and the reason. Redis may take `timeout` seconds for the buffered events.

    `backfill_days` is the retention of the ledger, for a publisher of a backfill: each event then needs its time, and
    one that is older is only counted.

    Raises:
        ArgumentError: as `read_lines` and `FieldMapping.events`.
        StreamUnavailableError: Redis did not take the events in time.
    """
    lines = mapping.events(read_lines(file, is_csv=is_csv, wanted=mapping.columns.values()))

    # A window for each line, since a pipe may stay open for days.
    def window() -> Window:
        now = datetime.now(UTC)
        return Window.of_backfill(now, backfill_days) if backfill_days else Window.around(now, accept_window)

    report = _publish(publisher, lines, window, on_problem, timeout, is_backfill=backfill_days is not None)
    _await_sent(publisher, timeout)
    return report


def _publish(
    publisher: UsagePublisher,
    lines: Iterator[Line],
    window: Callable[[], Window],
    on_problem: Callable[[int, EventRefusedError], None],
    timeout: float,
    *,
    is_backfill: bool,
) -> ImportReport:
    sent = bad = too_old = left_out = 0
    for line in lines:
        if line.is_left_out:
            left_out += 1
            continue
        try:
            if is_backfill and _is_too_old(line, window()):
                too_old += 1
                continue
            event = _event(line, window(), publisher.ids)
        except EventRefusedError as error:
            on_problem(line.number, error)
            bad += 1
            continue
        while not publisher.send(event):
            _await_sent(publisher, timeout)
        sent += 1
        if sent % FLUSH_EVERY == 0:
            _await_sent(publisher, timeout)
    return ImportReport(sent, bad, too_old, left_out)


def _is_too_old(line: Line, window: Window) -> bool:
    """Return whether the ledger no longer keeps a line's day.

    Raises:
        EventRefusedError: it has no time. The time of the import would be wrong, and another one the next time.
    """
    if line.problem:
        return False
    when = line.fields.get("occurred_at")
    if when is None:
        raise EventRefusedError("occurred_at: an event of a backfill needs its own time")
    return microseconds(when) < window.oldest


def _event(line: Line, window: Window, ids: ExternalIds | None) -> Prepared:
    if line.problem:
        raise EventRefusedError(line.problem)
    return prepare(line.fields, window, ids)


def _await_sent(publisher: UsagePublisher, timeout: float) -> None:
    if not publisher.flush(timeout):
        raise StreamUnavailableError(
            f"{publisher.stats().buffered} events were not sent in {timeout:.0f} s; publish the file again when Redis"
            " is available: lines with a time are not counted twice"
        )
