"""The common part of the commands that publish events: publisher, options of the form FIELD=VALUE, exit."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import typer

from usage_worker.cli.output import EXIT_PROBLEM, echo, print_json
from usage_worker.errors import ArgumentError
from usage_worker.events.columns import NAMES
from usage_worker.publisher import UsagePublisher
from usage_worker.queue.connection import RedisConnection
from usage_worker.queue.vitals import read_vitals
from usage_worker.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from usage_worker.settings import Settings


@contextmanager
def open_publisher(settings: Settings, *, backfill: bool = False) -> Iterator[UsagePublisher]:
    """Open a publisher; with `backfill` one of events that may be older than the acceptance window.

    Raises:
        StreamUnavailableError: Redis is not available; a publisher would wait for it.
    """
    with closing(RedisConnection.of(settings)) as connection:
        for name in connection.servers():
            read_vitals(connection, name)
    with UsagePublisher(settings=settings, disabled=False, backfill=backfill) as publisher:
        yield publisher


def assignments(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    """Return the values of an option that is given as FIELD=VALUE, by field.

    Raises:
        ArgumentError: a text has no equals sign, its field is not one of an event's, or it was given before.
    """
    found: dict[str, str] = {}
    for text in texts or ():
        name, value = _assignment(option, text)
        if name in found:
            raise ArgumentError(f"{option} {name}: is given twice; keep one of them")
        found[name] = value
    return found


def finish(
    sent: int,
    bad: int,
    problem: str,
    *,
    as_json: bool,
    too_old: int = 0,
    keeps_days: int | None = None,
    left_out: int | None = None,
) -> None:
    """Print how many events were sent and how often there was the problem; exit with 1 if there was any.

    Of a backfill, for which the ledger `keeps_days` days, also how many events were `too_old`; of another program's
    table, also how many rows were `left_out`.
    """
    figures, words = {"sent": sent, "bad": bad}, f"{counted(sent, 'event')} sent, {counted(bad, problem)}"
    if keeps_days is not None:
        figures["too_old"] = too_old
        words += f", {counted(too_old, 'event')} older than the ledger keeps ({keeps_days} days)"
    if left_out is not None:
        figures["left_out"] = left_out
        words += f", {counted(left_out, 'row')} left out"
    if as_json:
        print_json(figures)
    else:
        echo(words)
    if bad or too_old:
        raise typer.Exit(EXIT_PROBLEM)


def _assignment(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ArgumentError(f"{option} {text}: write FIELD=VALUE")
    if name not in NAMES:
        raise ArgumentError(f"{option} {text}: there is no field {name}; there are {', '.join(NAMES)}")
    return name, value
