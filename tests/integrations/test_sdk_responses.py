"""The objects of the SDKs themselves, made from the recorded responses, and their streams from a local server."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from dataclasses import is_dataclass
from http.server import BaseHTTPRequestHandler
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

from tests.integrations.provider import serving
from usage_worker.publisher.measuring import Measuring
from usage_worker.responses import Tally, fields_of

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[1] / "responses"
PAIR = {"user_id": "u", "agent_id": "a"}


def recorded(name: str) -> dict[str, Any]:
    case: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return case


CASES = [file.stem for file in sorted(FOLDER.glob("*.json")) if recorded(file.stem)["class"]]
STREAMS = [name for name in CASES if "chunks" in recorded(name)]


def made(name: str, values: dict[str, Any]) -> Any:
    """Return an object of a class of an SDK."""
    module, _, attribute = name.rpartition(".")
    kind = getattr(import_module(module), attribute)
    if name.startswith("litellm.") or is_dataclass(kind):
        return kind(**values)
    return TypeAdapter(kind).validate_python(values)


def objects_of(case: dict[str, Any]) -> list[Any]:
    return [made(case["class"], values) for values in case.get("chunks", [case.get("response")])]


def said_by(chunks: list[Any]) -> dict[str, Any]:
    if len(chunks) == 1:
        return fields_of(chunks[0])
    tally = Tally()
    for chunk in chunks:
        tally.add(chunk)
    return tally.fields()


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of LiteLLM's own objects
@pytest.mark.parametrize("name", CASES)
def test_object_of_the_sdk(name: str) -> None:
    case = recorded(name)
    objects = objects_of(case)
    assert said_by(objects) == case["expected"]
    if hasattr(objects[0], "model_dump"):
        assert said_by([item.model_dump() for item in objects]) == case["expected"]
        assert said_by([item.model_dump(by_alias=True) for item in objects]) == case["expected"]


class Kept(Measuring):
    """A publisher that keeps its events instead of sending them."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def add(self, fields: dict[str, Any]) -> str | None:
        assert fields.pop("response_time_ms") is not None
        self.events.append(fields)
        return ""


class _Handler(BaseHTTPRequestHandler):
    """Streams the case that the path begins with; Google asks for a path of its own below it."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        chunks = recorded(self.path.split("/")[1])["chunks"]
        events = [f"event: {it['type']}\ndata: {json.dumps(it)}\n\n" if "type" in it else _data(it) for it in chunks]
        body = "".join([*events, "data: [DONE]\n\n" if "choices" in chunks[0] else ""]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Leave the output to the tests."""


def _data(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(_Handler) as url:
        yield url


CHAT: dict[str, Any] = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "Hi"}]}
MESSAGE: dict[str, Any] = {**CHAT, "model": "claude-sonnet-5-5", "max_tokens": 10}
USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}


def counted(name: str) -> dict[str, Any]:
    return {**PAIR, "success": True, **recorded(name)["expected"]}


@contextmanager
def openai(url: str, name: str) -> Iterator[Any]:
    with import_module("openai").OpenAI(api_key="k", base_url=f"{url}/{name}") as client:
        yield client


def test_openai_streams(url: str) -> None:
    usage = Kept()
    with openai(url, "openai_chat_stream") as client:
        chunks = list(usage.stream("u", "a", client.chat.completions.create(**CHAT, **USAGE, stream=True)))
        assert type(chunks[0]).__name__ == "ChatCompletionChunk"
        with usage.stream("u", "a", client.chat.completions.stream(**CHAT, **USAGE)) as stream:
            assert "".join(event.delta for event in stream if event.type == "content.delta") == "Hello"
        with usage.stream("u", "a", client.chat.completions.stream(**CHAT, **USAGE)) as helper:
            assert helper.get_final_completion().choices[0].message.content == "Hello"
    assert usage.events == [counted("openai_chat_stream")] * 3


def test_openai_streams_that_end_early(url: str) -> None:
    usage = Kept()
    with openai(url, "openai_chat_stream") as client:
        for _ in usage.stream("u", "a", client.chat.completions.create(**CHAT, **USAGE, stream=True)):
            break
        with usage.stream("u", "a", client.chat.completions.create(**CHAT, **USAGE, stream=True)) as stream:
            next(stream)
        assert stream.response.is_closed
    assert usage.events == [counted("openai_chat_stream_cut")] * 2


def test_openai_responses(url: str) -> None:
    usage = Kept()
    for name in ("openai_response_stream", "openai_response_stream_failed"):
        with openai(url, name) as client:
            list(usage.stream("u", "a", client.responses.create(model="gpt-5.2", input="Hi", stream=True)))
    with (
        openai(url, "openai_response_stream") as client,
        usage.stream("u", "a", client.responses.stream(model="gpt-5.2", input="Hi")) as stream,
    ):
        assert next(stream).type == "response.created"
    with (
        openai(url, "openai_response_stream") as client,
        usage.stream("u", "a", client.responses.stream(model="gpt-5.2", input="Hi")) as stream,
    ):
        assert stream.get_final_response().usage.output_tokens
    names = (
        "openai_response_stream",
        "openai_response_stream_failed",
        "openai_response_stream_cut",
        "openai_response_stream",
    )
    assert usage.events == [counted(name) for name in names]


def test_openai_asynchronous(url: str) -> None:
    usage = Kept()

    async def main() -> None:
        base_url = f"{url}/openai_chat_stream"
        async with import_module("openai").AsyncOpenAI(api_key="k", base_url=base_url) as client:
            async for _ in usage.stream("u", "a", await client.chat.completions.create(**CHAT, **USAGE, stream=True)):
                pass
            async with usage.stream("u", "a", client.chat.completions.stream(**CHAT, **USAGE)) as helper:
                await helper.get_final_completion()
            stream = usage.stream("u", "a", await client.chat.completions.create(**CHAT, **USAGE, stream=True))
            await anext(stream)
            await stream.close()

    asyncio.run(main())
    assert usage.events == [*[counted("openai_chat_stream")] * 2, counted("openai_chat_stream_cut")]


def test_anthropic(url: str) -> None:
    usage = Kept()
    with import_module("anthropic").Anthropic(api_key="k", base_url=f"{url}/anthropic_stream") as client:
        list(usage.stream("u", "a", client.messages.create(**MESSAGE, stream=True)))
        with usage.stream("u", "a", client.messages.stream(**MESSAGE)) as stream:
            assert "".join(stream.text_stream) == "Hi"
        with usage.stream("u", "a", client.messages.stream(**MESSAGE)) as stream:
            assert [event.text for event in stream if event.type == "text"] == ["Hi"]
        with usage.stream("u", "a", client.messages.stream(**MESSAGE)) as stream:
            assert next(stream).type == "message_start"
            assert stream.get_final_message().usage.output_tokens
        with usage.stream("u", "a", client.messages.stream(**MESSAGE)) as stream:
            next(stream.text_stream)
    assert usage.events[:4] == [counted("anthropic_stream")] * 4
    assert {**usage.events[4], "reasoning_tokens": 0} == {**counted("anthropic_stream_cut"), "reasoning_tokens": 0}


def test_anthropic_asynchronous(url: str) -> None:
    usage = Kept()

    async def main() -> None:
        async with import_module("anthropic").AsyncAnthropic(api_key="k", base_url=f"{url}/anthropic_stream") as client:
            async with usage.stream("u", "a", client.messages.stream(**MESSAGE)) as stream:
                assert [text async for text in stream.text_stream] == ["Hi"]
            async for _ in usage.stream("u", "a", await client.messages.create(**MESSAGE, stream=True)):
                pass

    asyncio.run(main())
    assert usage.events == [counted("anthropic_stream")] * 2


def test_google(url: str) -> None:
    usage = Kept()
    genai = import_module("google.genai")
    client = genai.Client(api_key="k", http_options={"base_url": f"{url}/google_stream"})
    asked = {"model": "gemini-2.5-flash", "contents": "Hi"}
    list(usage.stream("u", "a", client.models.generate_content_stream(**asked)))

    async def main() -> None:
        async for _ in usage.stream("u", "a", await client.aio.models.generate_content_stream(**asked)):
            pass

    asyncio.run(main())
    assert usage.events == [counted("google_stream")] * 2


def test_litellm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # otherwise its import fetches prices
    litellm = import_module("litellm")
    usage = Kept()
    asked = {**CHAT, "model": "openai/gpt-4o-mini", "mock_response": "Hello"}
    response = litellm.completion(**asked)
    fields = fields_of(response)
    cost = response._hidden_params["response_cost"]
    assert cost > 0
    said = {"model": "gpt-4o-mini", "provider": "openai"}
    assert fields == {**said, "input_tokens": 10, "output_tokens": 20, "cost_usd": cost}

    async def main() -> None:
        async for _ in usage.stream("u", "a", await litellm.acompletion(**asked, **USAGE, stream=True)):
            pass

    list(usage.stream("u", "a", litellm.completion(**asked, **USAGE, stream=True)))
    asyncio.run(main())
    list(usage.stream("u", "a", litellm.completion(**asked, stream=True)))
    # LiteLLM counts the tokens of its mock itself.
    assert [(event.get("input_tokens"), event.get("output_tokens")) for event in usage.events] == [
        *[(8, 1)] * 2,
        (None, None),
    ]
    assert {(event["model"], event["provider"]) for event in usage.events} == {("gpt-4o-mini", "openai")}


def test_langchain(url: str) -> None:
    usage = Kept()
    chat = import_module("langchain_openai").ChatOpenAI
    model = chat(model="gpt-4.1", api_key="k", base_url=f"{url}/openai_chat_stream", stream_usage=True)
    list(usage.stream("u", "a", model.stream("Hi")))

    async def main() -> None:
        async for _ in usage.stream("u", "a", model.astream("Hi")):
            pass

    asyncio.run(main())
    assert usage.events == [{**counted("openai_chat_stream"), "provider": "openai"}] * 2


def test_increments_of_langchain_are_added_as_it_adds_them() -> None:
    chunks = objects_of(recorded("langchain_stream"))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert said_by(chunks) == fields_of(total)


def test_pydantic_ai() -> None:
    agent = import_module("pydantic_ai").Agent(import_module("pydantic_ai.models.test").TestModel())
    result = agent.run_sync("hello")
    fields = fields_of(result)
    assert (fields["input_tokens"], fields["output_tokens"]) == (result.usage.input_tokens, result.usage.output_tokens)
    assert (fields["model"], fields["provider"]) == ("test", "test")
    assert fields_of(result.response) == fields
