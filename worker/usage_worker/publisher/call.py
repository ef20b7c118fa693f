"""A call to a model that `measure` times: what the application says about it, and its end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from usage_worker.events.columns import MAX_MILLISECONDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from decimal import Decimal
    from types import TracebackType
    from uuid import UUID


class CallFields(TypedDict, total=False):
    """What an application may say about a call besides user and agent; units and bounds are those of `Event`."""

    event_id: UUID | str | None
    occurred_at: datetime | float | None
    messages: int | None
    input_tokens: int | None
    output_tokens: int | None
    tokens: int | None
    cached_input_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    cost_usd: Decimal | str | float | None
    response_time_ms: float | None
    success: bool | None
    conversation_id: UUID | str | int | None
    model: str | None
    provider: str | None


class Call:
    """A call that is being measured: set `response`, and any field that the response does not say.

    A field that is set here counts instead of what was measured or read. A name that is no field makes the event
    refused, as it does everywhere.
    """

    response: object = None
    user_id: UUID | str | int | None = None
    agent_id: UUID | str | int | None = None
    event_id: UUID | str | None = None
    occurred_at: datetime | float | None = None
    messages: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: Decimal | str | float | None = None
    response_time_ms: float | None = None
    success: bool | None = None
    conversation_id: UUID | str | int | None = None
    model: str | None = None
    provider: str | None = None


class Measurement:
    """The context manager of `UsagePublisher.measure`, for `with` and `async with`.

    `publish` takes what the application said, and what was measured.
    """

    def __init__(self, given: dict[str, Any], publish: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
        self._given, self._publish = given, publish

    def __enter__(self) -> Call:
        self._call = Call()
        vars(self._call).update(self._given)
        self._started = time.perf_counter()
        return self._call

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        measured = {"response_time_ms": milliseconds_since(self._started), "success": not is_failure(kind)}
        self._publish(dict(vars(self._call)), measured)

    async def __aenter__(self) -> Call:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


def is_failure(kind: type[BaseException] | None) -> bool:
    """Return whether a block that ended with this exception has failed.

    Cancellation, KeyboardInterrupt and SystemExit count as failures, since no answer came; GeneratorExit does not: the
    block stands in a generator whose consumer wants no more of the answer.
    """
    return kind is not None and not issubclass(kind, GeneratorExit)


def milliseconds_since(started: float) -> float | None:
    """Return the time since a reading of `time.perf_counter`, in whole milliseconds, as `response_time`."""
    return response_time(round((time.perf_counter() - started) * 1000))


def response_time(milliseconds: float) -> float | None:
    """Return a measured time in milliseconds, or None where an event may not have it: it is counted without."""
    return milliseconds if 0 <= milliseconds <= MAX_MILLISECONDS else None
