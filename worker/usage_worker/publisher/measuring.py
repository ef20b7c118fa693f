"""Ways to count a call by what the provider's SDK returned: a response, a measured block, a stream."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from usage_worker.publisher.call import Measurement
from usage_worker.publisher.context import current_context
from usage_worker.publisher.counted_stream import counted
from usage_worker.publisher.rate_limited_log import say
from usage_worker.responses import TOKEN_FIELDS, fields_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from uuid import UUID

    from typing_extensions import Unpack

    from usage_worker.publisher.call import CallFields
    from usage_worker.publisher.counted_stream import AsyncCountedStream, CountedStream

T = TypeVar("T")


class Measuring(ABC):
    """The methods of a publisher that measure.

    They never raise because of the response, the fields or the state of Redis, and leave the application's exceptions
    as they are. User, agent and conversation come from `usage_worker.context` where they are not given; a field that
    is given counts instead of what was read or measured. The id of a response is not the event's: one response, from a
    cache, may be used twice. Pass `event_id=response.id` where it is used once.
    """

    @abstractmethod
    def add(self, fields: dict[str, Any]) -> str | None:
        """Publish an event from a dictionary of its fields."""

    @property
    def is_counting(self) -> bool:
        """Whether anybody gets the events; otherwise no response is read."""
        return True

    def measure(
        self,
        user_id: UUID | str | int | None = None,
        agent_id: UUID | str | int | None = None,
        **fields: Unpack[CallFields],
    ) -> Measurement:
        """Count what happens in a `with` or `async with` block as one use of an agent.

        Its time is the response time, and it succeeded if no exception left it (see `is_failure`). Set `response` of
        the call that the block gets, and other fields where the response does not say them.

        Example:
            >>> with usage.measure(user_id, agent_id) as call:
            ...     call.response = client.chat.completions.create(model="gpt-5", messages=messages)
        """
        return Measurement(_given(user_id, agent_id, fields), self._add_measured)

    @overload
    def track_response(
        self,
        user_id: UUID | str | int | None,
        agent_id: UUID | str | int | None,
        response: object,
        **fields: Unpack[CallFields],
    ) -> str | None: ...

    @overload
    def track_response(
        self,
        user_id: UUID | str | int | None = None,
        agent_id: UUID | str | int | None = None,
        *,
        response: object,
        **fields: Unpack[CallFields],
    ) -> str | None: ...

    def track_response(
        self,
        user_id: UUID | str | int | None = None,
        agent_id: UUID | str | int | None = None,
        response: object = None,
        **fields: Unpack[CallFields],
    ) -> str | None:
        """Count a call by the response that a provider's SDK returned, or a dictionary of its shape.

        See `usage_worker.responses`. A response without usage counts as a use without tokens; the first of each kind
        is logged. Returns the same as `track`.
        """
        return self._add_measured({**_given(user_id, agent_id, fields), "response": response}, {})

    @overload
    def stream(
        self,
        user_id: UUID | str | int | None,
        agent_id: UUID | str | int | None,
        chunks: AsyncIterable[T] | AbstractAsyncContextManager[AsyncIterable[T]],
        **fields: Unpack[CallFields],
    ) -> AsyncCountedStream[T]: ...

    @overload
    def stream(
        self,
        user_id: UUID | str | int | None,
        agent_id: UUID | str | int | None,
        chunks: Iterable[T] | AbstractContextManager[Iterable[T]],
        **fields: Unpack[CallFields],
    ) -> CountedStream[T]: ...

    @overload
    def stream(
        self,
        user_id: UUID | str | int | None = None,
        agent_id: UUID | str | int | None = None,
        *,
        chunks: AsyncIterable[T] | AbstractAsyncContextManager[AsyncIterable[T]],
        **fields: Unpack[CallFields],
    ) -> AsyncCountedStream[T]: ...

    @overload
    def stream(
        self,
        user_id: UUID | str | int | None = None,
        agent_id: UUID | str | int | None = None,
        *,
        chunks: Iterable[T] | AbstractContextManager[Iterable[T]],
        **fields: Unpack[CallFields],
    ) -> CountedStream[T]: ...

    def stream(
        self,
        user_id: UUID | str | int | None = None,
        agent_id: UUID | str | int | None = None,
        chunks: object = None,
        **fields: Unpack[CallFields],
    ) -> Any:
        """Return a provider's stream to iterate over, which is counted when it ends.

        That is at its last chunk, an exception, `close` or `aclose`, the end of its `with` block, when nothing refers
        to it any more, or at the end of the process; tokens are those that were seen by then. It succeeded unless an
        exception ended it; whoever stops reading, closes it or is cancelled has not made it fail. The response time is
        that from this call to the last chunk. OpenAI's chat completions say what they used only with
        `stream_options={"include_usage": True}`, and only in their last chunk.

        Whatever else the provider's stream can do, the returned one can, too.

        Example:
            >>> for chunk in usage.stream(user_id, agent_id, client.responses.create(model="gpt-5", stream=True)):
            ...     show(chunk)
        """
        given = _given(user_id, agent_id, fields)
        return counted(chunks, partial(self._add_streamed, given) if self.is_counting else None)

    def _add_measured(self, given: dict[str, Any], measured: dict[str, Any]) -> str | None:
        if not self.is_counting:
            return None
        has_response = "response" in given
        response = given.pop("response", None)
        said = {**measured, **fields_of(response)}
        return self._add_said(given, said, _kind(response) if has_response else None)

    def _add_streamed(self, given: dict[str, Any], said: dict[str, Any], last: object) -> None:
        self._add_said(given, said, _kind(last) if last is not None else None)

    def _add_said(self, given: dict[str, Any], said: dict[str, Any], source: str | None) -> str | None:
        """Publish what the application gave, else what was read; `source` is the kind of object that should say it."""
        fields = {**said, **{name: value for name, value in given.items() if value is not None}}
        if source and TOKEN_FIELDS.isdisjoint(fields):
            _warn_once(source)
        try:
            return self.add(fields)
        except Exception as error:  # noqa: BLE001 - the call itself has been made, whatever we cannot do
            say(logging.ERROR, "event not published: %s", type(error).__name__)
            return None


def _given(user_id: object, agent_id: object, fields: CallFields) -> dict[str, Any]:
    """Return the fields that the application gave or set in the context, which is that of the call."""
    given = {"user_id": user_id, "agent_id": agent_id, **fields}
    return {**current_context(), **{name: value for name, value in given.items() if value is not None}}


def _kind(response: object) -> str:
    kind = type(response)
    try:
        return f"{kind.__module__}.{kind.__qualname__}"
    except Exception:  # noqa: BLE001 - of a metaclass
        return "an object"


@lru_cache(maxsize=1000)
def _warn_once(kind: str) -> None:
    say(
        logging.WARNING,
        "counted without tokens: no usage in %s (said once); a stream of OpenAI needs "
        'stream_options={"include_usage": True}',
        kind,
    )
