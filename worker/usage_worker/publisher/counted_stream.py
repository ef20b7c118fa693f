"""A provider's stream that is counted when it ends, however that happens."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from inspect import isawaitable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar
from weakref import WeakValueDictionary

from usage_worker.publisher.call import milliseconds_since
from usage_worker.responses import TOKEN_FIELDS, Tally, fields_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    Publish = Callable[[dict[str, Any], object], object]

T = TypeVar("T")
# The streams that are not counted yet, by their `id`: a WeakSet cannot be read while another thread changes it.
_OPEN: WeakValueDictionary[int, _Counted[Any]] = WeakValueDictionary()
# What the SDKs' own streams have read, also where the application reads their text, or their result, instead of events;
# pydantic-ai's have `usage` themselves.
_SNAPSHOTS = ("current_message_snapshot", "current_completion_snapshot", "_state._completed_response")


class _Counted(Generic[T]):
    """A stream with what its chunks said.

    Args:
        chunks: an iterable, or a context manager that gives one.
        publish: takes what was read and measured, and the object that should say the tokens, if any; None where the
            stream is not to be counted, whose chunks are not read then.
    """

    def __init__(self, chunks: Any, publish: Publish | None) -> None:
        self._chunks = self._manager = chunks
        self._publish = publish
        self._iterator: Any = None
        self._tally = Tally()
        self._last: object = None
        self._started = time.perf_counter()
        self._response_time_ms: float | None = None
        self._pid = os.getpid()
        if publish:
            _OPEN[id(self)] = self

    def __getattr__(self, name: str) -> Any:
        """Return what only the provider's stream has, as `response` or `get_final_message`."""
        if name.startswith("__") or "_chunks" not in vars(self):
            raise AttributeError(name)
        return getattr(self._chunks, name)

    def __del__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Count a stream that nothing closed; in a forked child it is the parent's, which counts it."""
        with suppress(Exception):
            if self._pid == os.getpid():
                self._finish()

    def _see(self, chunk: T) -> T:
        if self._publish is None:
            return chunk
        self._response_time_ms = milliseconds_since(self._started)
        self._last = chunk
        with suppress(Exception):
            self._tally.add(chunk)
        return chunk

    def _end(self, error: BaseException) -> None:
        """Count a stream that has ended by itself; what is no Exception, as a cancellation, ends it from outside."""
        is_complete = isinstance(error, StopIteration | StopAsyncIteration)
        if is_complete or isinstance(error, Exception):
            self._response_time_ms = milliseconds_since(self._started)
        self._finish(success=is_complete or not isinstance(error, Exception), is_complete=is_complete)

    def _leave(self, kind: type[BaseException] | None = None) -> None:
        """Count a stream that was closed, whose chunks the application may have read in another way."""
        if self._response_time_ms is None:
            self._response_time_ms = milliseconds_since(self._started)
        self._finish(success=kind is None or not issubclass(kind, Exception))

    def _finish(self, *, success: bool = True, is_complete: bool = False) -> None:
        """Count the stream, once."""
        publish, self._publish = self._publish, None
        if publish is None:
            return
        _OPEN.pop(id(self), None)
        seen, snapshot = self._tally.fields(), self._snapshot()
        # Either may have missed something of a stream that was read in two ways; counts only grow.
        counts = {name: max(seen[name], snapshot[name]) for name in TOKEN_FIELDS & seen.keys() & snapshot.keys()}
        said = snapshot | seen | counts
        measured = {"success": success, "response_time_ms": self._response_time_ms}
        # Where the tokens should be: the application may have read what it wanted of the stream in another way.
        is_unread = success and self._iterator is None
        publish({**measured, **said}, self._chunks if is_unread else self._last if is_complete else None)

    def _snapshot(self) -> dict[str, Any]:
        for name in _SNAPSHOTS:
            with suppress(Exception):
                return fields_of(attrgetter(name)(self._chunks))
        return {} if self._tally.has_counts else fields_of(self._chunks)

    def _method(self, owner: object, *names: str) -> Any:
        """Return the first method of these names, or None."""
        return next((method for name in names if callable(method := getattr(owner, name, None))), None)


class CountedStream(_Counted[T]):
    """The chunks of a stream, unchanged; counted when it ends, is closed, left or forgotten."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        try:
            if self._iterator is None:
                self._iterator = iter(self._chunks)
            chunk: T = next(self._iterator)
        except BaseException as error:
            self._end(error)
            raise
        return self._see(chunk)

    def close(self) -> None:
        """Close the provider's stream, and count it."""
        try:
            if close := self._method(self._chunks, "close"):
                close()
        finally:
            self._leave()

    def __enter__(self) -> Self:
        if enter := self._method(self._manager, "__enter__"):
            try:
                self._chunks = enter()
            except BaseException as error:
                self._end(error)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if leave := self._method(self._manager, "__exit__"):
                return leave(kind, error, trace)  # type: ignore[no-any-return]
            if close := self._method(self._chunks, "close"):
                close()
        finally:
            self._leave(kind)
        return None


class AsyncCountedStream(_Counted[T]):
    """The chunks of an asynchronous stream, unchanged; counted when it ends, is closed, left or forgotten."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            if self._iterator is None:
                self._iterator = aiter(self._chunks)
            chunk: T = await anext(self._iterator)
        except BaseException as error:
            self._end(error)
            raise
        return self._see(chunk)

    async def aclose(self) -> None:
        """Close the provider's stream, and count it."""
        try:
            await self._close_chunks()
        finally:
            self._leave()

    async def close(self) -> None:
        """Close the provider's stream, and count it: OpenAI's and Anthropic's have this name."""
        await self.aclose()

    async def __aenter__(self) -> Self:
        if enter := self._method(self._manager, "__aenter__"):
            try:
                self._chunks = await enter()
            except BaseException as error:
                self._end(error)
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if leave := self._method(self._manager, "__aexit__"):
                return await leave(kind, error, trace)  # type: ignore[no-any-return]
            await self._close_chunks()
        finally:
            self._leave(kind)
        return None

    async def _close_chunks(self) -> None:
        if close := self._method(self._chunks, "aclose", "close"):
            closing = close()
            if isawaitable(closing):
                await closing


class BothCountedStream(CountedStream[T], AsyncCountedStream[T]):  # type: ignore[misc]
    """A stream that can be read in both ways, as LiteLLM's; `close` is the synchronous one."""


def count_open_streams() -> None:
    """Count the streams that are still open, at the end of the process: `__del__` would run too late."""
    for reference in _OPEN.valuerefs():
        if stream := reference():
            stream.forget()


def counted(chunks: object, publish: Publish | None) -> Any:
    """Return the stream to iterate over, in the ways in which `chunks` can be."""
    kind = type(chunks)
    is_async = hasattr(kind, "__aiter__") or hasattr(kind, "__aenter__")
    is_sync = hasattr(kind, "__iter__") or hasattr(kind, "__enter__") or not is_async
    if is_sync and is_async:
        return BothCountedStream(chunks, publish)
    return AsyncCountedStream(chunks, publish) if is_async else CountedStream(chunks, publish)
