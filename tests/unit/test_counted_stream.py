"""Streams: chunks reach the application unchanged, and one event is published however a stream ends."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.unit.test_measuring import AGENT, PAIR, USER, Kept, usage
from tests.unit.test_responses import RECORDED, recorded
from usage_worker.publisher.counted_stream import count_open_streams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

__all__ = ["usage"]
CASES = [file.stem for file in RECORDED if "stream" in file.stem]
CHAT = recorded("openai_chat_stream")
ANTHROPIC, CUT = recorded("anthropic_stream"), recorded("anthropic_stream_cut")


class Stream:
    """A stream as those of SDKs: iterable in one way, with a response and `close`."""

    def __init__(self, chunks: list[Any], error: BaseException | None = None) -> None:
        self.response = "the HTTP response"
        self.closed = 0
        self._chunks = iter(chunks)
        self._error = error

    def __iter__(self) -> Iterator[Any]:
        yield from self._chunks
        if self._error:
            raise self._error

    def close(self) -> None:
        self.closed += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncStream:
    """An asynchronous stream as those of SDKs, whose method is called `close`, too."""

    def __init__(self, chunks: list[Any], error: BaseException | None = None) -> None:
        self.response = "the HTTP response"
        self.closed = 0
        self._stream = Stream(chunks, error)

    async def __aiter__(self) -> AsyncIterator[Any]:
        for chunk in self._stream:
            yield chunk

    async def close(self) -> None:
        self.closed += 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@pytest.mark.parametrize("name", CASES)
def test_recorded_stream(name: str, usage: Kept) -> None:
    case = recorded(name)
    seen = list(usage.stream(USER, AGENT, iter(case["chunks"]), messages=2))
    assert all(chunk is original for chunk, original in zip(seen, case["chunks"], strict=True))

    async def asynchronous() -> list[Any]:
        return [chunk async for chunk in usage.stream(USER, AGENT, AsyncStream(case["chunks"]), messages=2)]

    assert asyncio.run(asynchronous()) == case["chunks"]
    for event in usage.events:
        assert type(event.pop("response_time_ms")) is int
        assert event == {**PAIR, "messages": 2, "success": True, **case["expected"]}
    assert len(usage.events) == 2


def read(stream: Any, end: str) -> None:
    """Read the first chunks of a stream, and end it."""
    for _ in range(len(CUT["chunks"])):
        next(stream)
    if end == "close":
        stream.close()
        stream.close()
    elif end == "with":
        with stream:
            pass


@pytest.mark.parametrize("end", ["close", "with", "forgotten"])
def test_early_end_counts_what_was_seen(usage: Kept, end: str) -> None:
    source = Stream(ANTHROPIC["chunks"])
    read(usage.stream(USER, AGENT, source), end)
    assert usage.only() == {**PAIR, "success": True, **CUT["expected"]}
    assert source.closed == {"close": 2, "with": 1, "forgotten": 0}[end]


@pytest.mark.parametrize("end", ["close", "aclose", "with", "forgotten", "cancelled"])
def test_early_end_of_an_asynchronous_stream(usage: Kept, end: str) -> None:
    source = AsyncStream(ANTHROPIC["chunks"], asyncio.CancelledError())

    async def main() -> None:
        stream = usage.stream(USER, AGENT, source)
        for _ in range(len(CUT["chunks"])):
            await anext(stream)
        if end in ("close", "aclose"):
            await getattr(stream, end)()
        elif end == "with":
            async with stream:
                pass
        elif end == "cancelled":
            with suppress(asyncio.CancelledError):
                async for _ in stream:
                    pass

    asyncio.run(main())
    expected = ANTHROPIC["expected"] if end == "cancelled" else CUT["expected"]
    assert usage.only() == {**PAIR, "success": True, **expected}
    assert source.closed == (end in ("close", "aclose", "with"))


def test_more_than_a_day_is_no_response_time(usage: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the call is counted, as after a wait for a person's answer."""
    stream = usage.stream(USER, AGENT, Stream(ANTHROPIC["chunks"]))
    with usage.measure(USER, AGENT, input_tokens=7):
        monkeypatch.setattr(time, "perf_counter", lambda now=time.perf_counter: now() + 86_401)
    read(stream, "close")
    assert [event["response_time_ms"] for event in usage.events] == [None, None]
    assert usage.refused == []


def test_generators_are_closed(usage: Kept) -> None:
    ended = []

    def chunks() -> Iterator[Any]:
        try:
            yield from CUT["chunks"]
        finally:
            ended.append("sync")

    async def asynchronous() -> AsyncIterator[Any]:
        try:
            for chunk in CUT["chunks"]:
                yield chunk
        finally:
            ended.append("async")

    async def main() -> None:
        async with usage.stream(USER, AGENT, asynchronous()) as stream:
            await anext(stream)
        async with aclosing(usage.stream(USER, AGENT, asynchronous())) as stream:
            await anext(stream)

    with usage.stream(USER, AGENT, chunks()) as stream:
        next(stream)
    asyncio.run(main())
    assert ended == ["sync", "async", "async"]
    assert len(usage.events) == 3


@pytest.mark.parametrize(("error", "success"), [(ValueError, False), (KeyboardInterrupt, True), (GeneratorExit, True)])
def test_exception_of_the_provider_ends_the_stream(usage: Kept, error: type[BaseException], *, success: bool) -> None:
    raised = error("the provider's")
    stream = usage.stream(USER, AGENT, Stream(CUT["chunks"], raised))
    with pytest.raises(error) as caught:
        list(stream)
    assert caught.value is raised
    with suppress(StopIteration):
        next(stream)
    assert usage.only() == {**PAIR, **CUT["expected"], "success": success}


def test_exception_of_the_application_leaves_the_block(usage: Kept) -> None:
    raised = ValueError("the application's")
    with pytest.raises(ValueError, match="the application's"), usage.stream(USER, AGENT, Stream(CUT["chunks"])):
        raise raised
    assert usage.events[0]["success"] is False


def test_block_of_the_provider_may_swallow_an_exception(usage: Kept) -> None:
    @contextmanager
    def managed() -> Iterator[Iterator[Any]]:
        with suppress(ValueError):
            yield iter(CUT["chunks"])

    @asynccontextmanager
    async def asynchronous() -> AsyncIterator[AsyncStream]:
        with suppress(ValueError):
            yield AsyncStream(CUT["chunks"])

    async def main() -> None:
        async with usage.stream(USER, AGENT, asynchronous()) as stream:
            assert await anext(stream) is CUT["chunks"][0]
            raise ValueError

    with usage.stream(USER, AGENT, managed()) as stream:
        assert next(stream) is CUT["chunks"][0]
        raise ValueError
    asyncio.run(main())
    assert [event["success"] for event in usage.events] == [False, False]


def test_stream_that_nobody_refers_to_is_counted(usage: Kept) -> None:
    stream: Any = usage.stream(USER, AGENT, Stream(CUT["chunks"]))
    next(stream)
    stream.itself = stream
    del stream
    gc.collect()
    assert len(usage.events) == 1


def test_stream_of_the_parent_is_not_counted_in_a_forked_child(usage: Kept) -> None:
    stream = usage.stream(USER, AGENT, Stream(CUT["chunks"]))
    next(stream)
    if not (pid := os.fork()):
        del stream
        os._exit(len(usage.events))
    assert os.waitpid(pid, 0)[1] == 0
    del stream
    assert len(usage.events) == 1


def test_stream_in_both_ways(usage: Kept) -> None:
    class Both(AsyncStream):
        def __iter__(self) -> Iterator[Any]:
            return iter(CHAT["chunks"])

    async def main() -> None:
        assert [chunk async for chunk in usage.stream(USER, AGENT, Both(CHAT["chunks"]))] == CHAT["chunks"]

    both: Any = usage.stream(USER, AGENT, Both([]))
    assert list(both) == CHAT["chunks"]
    asyncio.run(main())
    assert [event["output_tokens"] for event in usage.events] == [300, 300]


def test_stream_without_usage_is_named_once_if_it_was_complete(usage: Kept, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        next(usage.stream(USER, AGENT, Stream(CHAT["chunks"][:2])))
    assert caplog.records == []
    for _ in range(2):
        list(usage.stream(USER, AGENT, Stream(CHAT["chunks"][:2])))
    (record,) = caplog.records
    assert "include_usage" in record.getMessage()
    assert len(usage.events) == 4


def test_what_cannot_be_iterated_raises_as_it_does_without_us(usage: Kept) -> None:
    with pytest.raises(TypeError, match="not iterable"):
        list(usage.stream(USER, AGENT, 5))  # type: ignore[call-overload]
    assert usage.events[0]["success"] is False


def test_open_streams_are_counted_at_the_end_of_the_process_and_only_once(usage: Kept) -> None:
    stream, unread = usage.stream(USER, AGENT, iter(CHAT["chunks"])), usage.stream(USER, AGENT, iter(()))
    for _ in stream:
        break
    assert list(usage.stream(USER, AGENT, iter(()))) == []
    count_open_streams()
    assert len(usage.events) == 3
    del stream, unread
    count_open_streams()
    assert len(usage.events) == 3
