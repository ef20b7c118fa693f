"""The status of the system as HTML; every text in it is escaped once."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

from usage_worker.printable import printable
from usage_worker.report.page import headlines_html
from usage_worker.report.tables import Table, table_html
from usage_worker.wording import UNKNOWN, counted, exact, percentage, short, short_milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.background import Collected
    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Figures
    from usage_worker.monitoring.status import SystemStatus


def status_html(collected: Collected | None) -> str:
    """Return the section with the status; None is one that is not collected yet."""
    if collected is None:
        return _section("unknown", "Status: being collected", "<p>Reload the page in a few seconds.</p>")
    status = collected.status
    state, heading = _verdict(status)
    problems = "".join(map(_problem_html, status.problems))
    figures = status.figures
    age = (datetime.now(UTC) - collected.at).total_seconds()
    tables = "".join(
        f"<details><summary>{escape(title)}</summary>{table_html(Table(headings, _shown(rows)), title)}</details>"
        for title, headings, rows in _tables(status)
        if rows
    )
    return _section(
        state,
        heading,
        f"<p>Collected at {collected.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, {_ago(age)}.</p>\n"
        + (f'<ul class="problems">{problems}</ul>\n' if problems else "")
        + f"{headlines_html([*_queue(figures), *_database(figures)])}\n{tables}",
    )


def _section(state: str, heading: str, html: str) -> str:
    return f'<section id="status"><h2 class="{state}">{escape(heading)}</h2>\n{html}</section>'


def _verdict(status: SystemStatus) -> tuple[str, str]:
    """Return the class of the heading, and the heading."""
    count = counted(len(status.problems), "problem")
    if not status.healthy:
        return "fail", f"Status: not healthy, {count}"
    return ("warn", f"Status: healthy, {count}") if status.problems else ("ok", "Status: healthy")


def _problem_html(check: Check) -> str:
    return (
        f'<li><strong class="{escape(check.state)}">{escape(check.name)} ({escape(check.state)})</strong>: '
        f"{escape(check.reason)}. To do: {escape(check.remedy)}</li>"
    )


def _queue(figures: Figures) -> Iterator[tuple[str, str, str]]:
    """Yield what Redis knows, as name, figure and note."""
    rate = figures.accepted_per_second
    yield "Rate", UNKNOWN if rate is None else f"{short(round(rate))}/s", "events counted, over the last minute"
    yield from _backlog(figures)
    flushes = None if figures.flushes is None else [it.succeeded_seconds for it in figures.flushes.values()]
    yield "Last flush", *_last_flush(flushes)
    workers = None if figures.processes is None else len(figures.workers)
    beat = "no heartbeat yet" if figures.beat_seconds is None else f"{_duration(figures.beat_seconds)} ago"
    yield "Workers", exact(workers), f"beat: {beat}" if workers is not None else ""
    memory = figures.redis_memory
    text = "no limit" if memory == 0 else UNKNOWN if memory is None else percentage(memory)
    yield "Redis memory", text, "of maxmemory" if memory else ""


def _backlog(figures: Figures) -> Iterator[tuple[str, str, str]]:
    if figures.backlog is None:
        yield "Backlog", UNKNOWN, ""
        yield "Oldest entry", UNKNOWN, ""
        return
    waiting = [shard for shard in figures.backlog.values() if shard.entries]
    pending = sum(shard.pending for shard in waiting)
    yield "Backlog", short(sum(shard.entries for shard in waiting)), f"entries, {short(pending)} of them pending"
    known = [shard.oldest_seconds for shard in waiting if shard.age_known]
    oldest = _duration(max(known)) if known else UNKNOWN
    yield "Oldest entry", oldest if waiting else "none", "the lag: how long it has waited"


def _last_flush(seconds: list[float | None] | None) -> tuple[str, str]:
    """Return when the shard was flushed that waits longest, and a note."""
    if not seconds:
        return UNKNOWN, ""
    known = [it for it in seconds if it is not None]
    if len(known) < len(seconds):
        return "never", "of one shard at least"
    return f"{_duration(max(known))} ago", "of the shard that waits longest"


def _database(figures: Figures) -> Iterator[tuple[str, str, str]]:
    """Yield what PostgreSQL knows, as name, figure and note."""
    totals = figures.totals
    if totals is None:
        yield "Counted", UNKNOWN, ""
    else:
        note = f"of {exact(totals.accepted)} accepted; {exact(totals.duplicate)} duplicate, "
        yield "Counted", exact(totals.applied), f"{note}{exact(totals.quarantined)} quarantined"
    waiting = figures.quarantine
    if waiting is not None:
        note = f"of the newest {exact(waiting.total)}: {waiting.reason}; {waiting.remedy}"
        yield "Dead letters", exact(waiting.events), note
    yield "Schema", printable(figures.schema or UNKNOWN), ""


def _tables(status: SystemStatus) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield the title, the headings and the rows of each table."""
    figures = status.figures
    yield "Checks", ["Check", "State"], [[check.name, check.state] for check in status.checks]
    flushes = figures.flushes or {}
    rows = [
        [
            str(shard),
            exact(it.entries),
            exact(it.pending),
            _duration(it.oldest_seconds) if it.age_known else UNKNOWN,
            _ago(flushes[shard].succeeded_seconds) if shard in flushes else UNKNOWN,
        ]
        for shard, it in (figures.backlog or {}).items()
    ]
    yield "Shards", ["Shard", "Entries", "Pending", "Oldest entry", "Last flush"], rows
    processes = [
        [
            it.name,
            str(it.process.kind),
            ", ".join(map(str, it.process.roles)),
            str(it.process.version),
            _duration(it.process.uptime),
            "yes" if it.is_alive else f"last seen {_ago(it.seconds)}",
        ]
        for it in figures.processes or []
    ]
    yield "Processes", ["Process", "Kind", "Roles", "Version", "Running for", "Alive"], processes
    partitions = [[it.table, str(max(it.ahead_days, 0))] for it in figures.partitions or []]
    yield "Partitions", ["Table", "Days ahead"], partitions


def _shown(rows: list[list[str]]) -> list[list[str]]:
    """Return the rows with names of processes, which anybody may write who reaches Redis, as they may be shown."""
    return [[printable(cell) for cell in row] for row in rows]


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else f"{_duration(seconds)} ago"


def _duration(seconds: float) -> str:
    return short_milliseconds(1000 * max(seconds, 0.0))
