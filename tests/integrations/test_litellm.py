"""LiteLLM's own calls, with a provider on this machine, through the callback to Valkey."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import litellm
import pytest
from litellm.caching.caching import Cache

from tests.helpers import eventually
from tests.integrations.conftest import without_measurements
from tests.integrations.provider import FAILING
from usage_worker import context
from usage_worker.integrations.litellm import UsageLogger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integrations.conftest import Published
    from usage_worker import UsagePublisher

USER, AGENT, CONVERSATION = (str(uuid4()) for _ in range(3))
OWNER = {"user_id": USER, "agent_id": AGENT, "conversation_id": CONVERSATION}
MESSAGES = [{"role": "user", "content": "Is it counted?"}]

Call = dict[str, Any]


@pytest.fixture
def call(provider_url: str) -> Call:
    """Return the arguments of a call."""
    return {
        "model": "openai/gpt-4o",
        "messages": MESSAGES,
        "api_base": f"{provider_url}/v1",
        "api_key": "none",
        "max_retries": 0,
        "metadata": dict(OWNER),
    }


@pytest.fixture
def install() -> Iterator[Callable[..., None]]:
    """Return a function that makes loggers LiteLLM's only callbacks."""

    def replace(*loggers: UsageLogger) -> None:
        litellm.logging_callback_manager._reset_all_callbacks()
        litellm.callbacks = list(loggers)

    yield replace
    replace()


@pytest.fixture(autouse=True)
def logger(usage: UsagePublisher, install: Callable[..., None]) -> UsageLogger:
    logger = UsageLogger(usage)
    install(logger)
    return logger


def ended(published: Published, number: int) -> Any:
    """Await, in a coroutine, that so many calls are published: LiteLLM's hooks need its event loop."""
    return asyncio.to_thread(published.events, number)


def test_call_is_an_event(published: Published, call: Call) -> None:
    before = datetime.now(UTC)
    litellm.completion(**call)
    (event,) = published.events(1)
    assert without_measurements(event, before) == {
        "user_id": UUID(USER).hex,
        "agent_id": UUID(AGENT).hex,
        "conversation_id": UUID(CONVERSATION).hex,
        "input_tokens": 812,
        "output_tokens": 160,
        "cached_input_tokens": 512,
        "reasoning_tokens": 96,
        # 300 at $2.50 a million, 512 at $1.25, 160 at $10.
        "cost_usd": "0.00299",
        "model": "gpt-4o-2024-08-06",
        "provider": "openai",
    }


def test_async_call_is_an_event(published: Published, call: Call) -> None:
    async def main() -> list[dict[str, Any]]:
        await litellm.acompletion(**call)
        events: list[dict[str, Any]] = await ended(published, 1)
        return events

    (event,) = asyncio.run(main())
    assert (event["user_id"], event["input_tokens"], event["cost_usd"]) == (UUID(USER).hex, 812, "0.00299")


def test_streams_count_what_their_last_chunk_says(published: Published, call: Call) -> None:
    call |= {"stream": True, "stream_options": {"include_usage": True}}

    async def main() -> None:
        async for _ in await litellm.acompletion(**call):
            pass
        await ended(published, 1)

    asyncio.run(main())
    assert list(litellm.completion(**call))
    events = published.events(2)
    assert [(it["input_tokens"], it["output_tokens"], it["reasoning_tokens"]) for it in events] == [(812, 160, 96)] * 2


def test_failed_call_is_counted_as_such(published: Published, call: Call) -> None:
    call["model"] = f"openai/{FAILING}"
    with pytest.raises(litellm.InternalServerError):
        litellm.completion(**call)

    async def main() -> None:
        with pytest.raises(litellm.InternalServerError):
            await litellm.acompletion(**call)
        await ended(published, 2)

    asyncio.run(main())
    for event in published.events(2):
        assert (event["success"], event["model"], event["provider"]) == (False, FAILING, "openai")
        assert "cost_usd" not in event


def test_call_that_is_logged_twice_has_one_identity(
    published: Published, call: Call, install: Callable[..., None]
) -> None:
    class Another(UsageLogger):
        """LiteLLM has one callback of a class at most."""

    install(UsageLogger(published.usage), Another(published.usage))
    litellm.completion(**call)
    first, second = published.events(2)
    assert first == second


@pytest.mark.parametrize("identity", ["x" * 256, "a\x00b", "\ud800"])
def test_call_whose_id_no_event_can_hold_has_one_identity(published: Published, call: Call, identity: str) -> None:
    for _ in range(2):
        litellm.completion(**call | {"litellm_call_id": identity})
    litellm.completion(**call)
    events = published.events(3)
    assert len({event["event_id"] for event in events}) == 2


def test_input_of_anthropic_includes_its_cache(published: Published, call: Call, provider_url: str) -> None:
    litellm.completion(**call | {"model": "anthropic/claude-sonnet-4-5", "api_base": provider_url})
    (event,) = published.events(1)
    assert (event["input_tokens"], event["cached_input_tokens"], event["cache_write_tokens"]) == (960, 900, 50)
    assert (event["output_tokens"], event["provider"]) == (20, "anthropic")


def test_embedding_is_an_event(published: Published, call: Call) -> None:
    del call["messages"]
    litellm.embedding(**call | {"model": "openai/text-embedding-3-small", "input": ["counted"]})
    (event,) = published.events(1)
    assert (event["input_tokens"], event["model"], event["cost_usd"]) == (8, "text-embedding-3-small", "0.00000016")


def test_answer_from_the_cache_costs_nothing(published: Published, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litellm, "cache", Cache(type="local"))
    for number in (1, 2):
        litellm.completion(**call, caching=True)
        published.events(number)
    paid, cached = published.events(2)
    assert (paid["cost_usd"], cached["cost_usd"]) == ("0.00299", "0")
    assert paid["input_tokens"] == cached["input_tokens"] == 812


def test_each_attempt_of_a_router_is_an_event(published: Published, call: Call) -> None:
    def deployment(name: str, model: str) -> dict[str, Any]:
        given = {"model": f"openai/{model}", "api_base": call["api_base"], "api_key": "none", "max_retries": 0}
        return {"model_name": name, "litellm_params": given}

    deployments = [deployment("first", FAILING), deployment("second", "gpt-4o")]
    router = litellm.Router(deployments, fallbacks=[{"first": ["second"]}], num_retries=0)
    router.completion("first", MESSAGES, metadata=dict(OWNER))
    failed, answered = published.events(2)
    assert (failed["success"], failed["model"], failed["user_id"]) == (False, FAILING, UUID(USER).hex)
    assert (answered.get("success", True), answered["input_tokens"]) == (True, 812)
    assert failed["event_id"] != answered["event_id"]


def test_unknown_price_is_not_zero(published: Published, call: Call) -> None:
    litellm.completion(**call | {"model": "openai/our-own-model"}, mock_response="Yes.")
    (event,) = published.events(1)
    assert event["model"] == "our-own-model"
    assert "cost_usd" not in event


@pytest.mark.parametrize(
    "given",
    [{"user": USER}, {"metadata": {"user_api_key_user_id": USER}}, {"metadata": {"user_api_key_end_user_id": USER}}],
    ids=["end user", "owner of the proxy's key", "end user of the proxy"],
)
def test_user_is_the_one_that_litellm_knows(
    published: Published, call: Call, install: Callable[..., None], given: dict[str, Any]
) -> None:
    install(UsageLogger(published.usage, agent_id=AGENT))
    with context(user_id=str(uuid4())):
        litellm.completion(**call | {"metadata": {}} | given)
    (event,) = published.events(1)
    assert (event["user_id"], event["agent_id"]) == (UUID(USER).hex, UUID(AGENT).hex)


def test_context_holds_for_a_stream_that_is_read_after_it(published: Published, call: Call) -> None:
    call |= {"stream": True, "metadata": {}}

    async def main() -> None:
        with context(**OWNER):
            stream = await litellm.acompletion(**call)
        async for _ in stream:
            pass
        await ended(published, 1)

    asyncio.run(main())
    with context(**OWNER):
        stream = litellm.completion(**call)
    assert list(stream)
    assert {event["user_id"] for event in published.events(2)} == {UUID(USER).hex}


def test_call_of_nobody_is_refused_and_said_once(
    published: Published, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "usage_worker"):
        for number in (1, 2):
            litellm.completion(**call | {"metadata": {"user_id": USER}})
            eventually(lambda number=number: published.usage.stats().refused == number)  # type: ignore[misc]
    advice = [record.message for record in caplog.records if "metadata={'user_id'" in record.message]
    assert len(advice) == 1


def test_list_of_files_is_no_use_of_an_agent(published: Published, call: Call) -> None:
    litellm.file_list("openai", api_base=call["api_base"], api_key="none", litellm_metadata=dict(OWNER))
    litellm.completion(**call)
    (event,) = published.events(1)
    assert event["input_tokens"] == 812


def test_reading_a_stored_response_is_no_use_of_an_agent(published: Published, call: Call) -> None:
    owners = {"api_base": call["api_base"], "api_key": "none", "litellm_metadata": dict(OWNER)}
    litellm.responses(model="openai/gpt-4o", input="Is it counted?", **owners)
    published.events(1)
    for read in (litellm.get_responses, litellm.get_responses, litellm.cancel_responses):
        assert read("resp_1", custom_llm_provider="openai", **owners).usage.output_tokens > 0
    litellm.completion(**call)
    assert {event["cost_usd"] for event in published.events(2)} == {"0.01456875", "0.00299"}


@pytest.mark.parametrize("kind", ["retrieve_batch", "aretrieve_batch", "acancel_batch", "avideo_status"])
def test_polls_of_a_job_are_no_uses_of_an_agent(published: Published, logger: UsageLogger, kind: str) -> None:
    """Of which each has an id and a time of its own, and the tokens and cost of the job."""
    poll = {"total_tokens": 972, "prompt_tokens": 812, "completion_tokens": 160, "response_cost": 0.003}
    kwargs = {"litellm_call_id": str(uuid4()), "litellm_params": {"metadata": OWNER}, "standard_logging_object": poll}
    logger.log_success_event(kwargs | {"call_type": kind}, None, None, None)
    assert published.usage.stats().accepted == 0
    logger.log_success_event(kwargs | {"call_type": "ocr"}, None, None, None)
    assert published.usage.stats().accepted == 1


@pytest.mark.parametrize(
    "kwargs", [None, {}, {"standard_logging_object": 3, "call_type": 3}, {"litellm_params": {"metadata": 3}}]
)
def test_hooks_never_raise(logger: UsageLogger, kwargs: Any) -> None:
    logger.log_pre_api_call("gpt-4o", MESSAGES, kwargs)
    logger.log_success_event(kwargs, None, None, None)
    logger.log_failure_event(kwargs, None, None, None)
    asyncio.run(logger.async_log_success_event(kwargs=kwargs, response_obj=3, start_time=None, end_time=None))
    asyncio.run(logger.async_log_failure_event(kwargs=kwargs, response_obj=3, start_time=None, end_time=None))
