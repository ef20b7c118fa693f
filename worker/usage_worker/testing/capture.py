"""The events that an application publishes, in a list instead of in Redis."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from usage_worker.publisher.recorders import RECORDERS

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def capture() -> Iterator[list[dict[str, Any]]]:
    """Collect the events of all publishers of this process, in all threads, and send none of them.

    Each event is a dictionary of all fields, as `before_send` gets it. It makes no difference when a publisher is made,
    whether it is disabled, and whether there is a Redis; refused events are not in the list. Where several are open, as
    in a test that has the fixture `usage_events`, each gets the events of its time.

    Example:
        >>> with capture() as events:
        ...     answer(question)
        >>> assert [event["input_tokens"] for event in events] == [812]
    """
    events: list[dict[str, Any]] = []
    RECORDERS.append(events.append)
    try:
        yield events
    finally:
        RECORDERS.remove(events.append)
