"""LiteLLM: count every call of its SDK, or of its proxy.

Example:
    >>> litellm.callbacks = [UsageLogger(usage)]
    >>> litellm.completion(model=…, messages=…, metadata={"user_id": 42, "agent_id": "support-bot"})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usage_worker.errors import needs_extra
from usage_worker.integrations.model_calls import ModelCalls
from usage_worker.integrations.open_calls import OpenCalls
from usage_worker.publisher.call import response_time
from usage_worker.publisher.context import current_context
from usage_worker.responses import fields_of
from usage_worker.responses.litellm import is_model_call

with needs_extra("litellm"):
    from litellm.integrations.custom_logger import CustomLogger

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from usage_worker.publisher import UsagePublisher

# Each of them has an id and a time of its own, and all of those after the end of the job have its tokens and cost.
_POLLS = frozenset({"retrieve_batch", "cancel_batch", "video_status"})


class UsageLogger(CustomLogger):
    """A callback of LiteLLM that publishes an event for each call; it never raises.

    User, agent and conversation are those of the call's `metadata` (`user_id`, `agent_id`, `conversation_id`); else the
    user is the end user (`user=…`), or the owner of the proxy's key; else those of `usage_worker.context`. A call that
    LiteLLM logs twice counts once: its id is the event's.

    Args:
        usage: the publisher; it stays open.
        user_id: the user of calls that name none.
        agent_id: the agent of calls that name none.
    """

    def __init__(
        self,
        usage: UsagePublisher,
        *,
        user_id: UUID | str | int | None = None,
        agent_id: UUID | str | int | None = None,
    ) -> None:
        super().__init__()
        advice = "give LiteLLM metadata={'user_id': …, 'agent_id': …}, or call it in `usage_worker.context`"
        self._calls = ModelCalls(usage, advice, user_id, agent_id)
        self._contexts: OpenCalls[str, dict[str, Any]] = OpenCalls()

    def log_pre_api_call(self, model: Any, messages: Any, kwargs: Any) -> None:
        # The end of a stream is logged by another thread, or after the block of the context.
        with self._calls.contained():
            if ids := current_context():
                self._contexts.begin(kwargs["litellm_call_id"], ids)

    def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self._publish(kwargs, response_obj, success=True)

    def log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self._publish(kwargs, None, success=False)

    # LiteLLM gives these their arguments by name.
    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self._publish(kwargs, response_obj, success=True)

    async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        self._publish(kwargs, None, success=False)

    def _publish(self, kwargs: Mapping[str, Any], response: object, *, success: bool) -> None:
        with self._calls.contained():
            call = kwargs.get("standard_logging_object") or {}
            if _is_model_call(kwargs, call):
                fields = _fields(kwargs, call, response, success=success)
                # Kept, as LiteLLM logs some calls twice.
                context = self._contexts.get(fields["event_id"]) or current_context()
                self._calls.publish(fields, *_owners(kwargs, call), context)


def _is_model_call(kwargs: Mapping[str, Any], call: Mapping[str, Any]) -> bool:
    kind = kwargs.get("call_type") or ""
    has_usage = bool(call.get("total_tokens") or call.get("response_cost"))
    return kind.removeprefix("a") not in _POLLS and is_model_call(kind, has_usage=has_usage)


def _fields(kwargs: Mapping[str, Any], call: Mapping[str, Any], response: object, *, success: bool) -> dict[str, Any]:
    start, end = call.get("startTime"), call.get("endTime")
    said = {"model": call.get("model"), **({} if response is None else fields_of(response))}
    provider = call.get("custom_llm_provider") or said.get("provider")
    # Else LiteLLM says 0, as of an answer from its cache, which costs nothing.
    has_cost = success and not call.get("response_cost_failure_debug_info")
    return {
        "input_tokens": call.get("prompt_tokens"),
        "output_tokens": call.get("completion_tokens"),
        **said,
        "model": str(said["model"] or "").removeprefix(f"{provider}/"),
        "provider": provider,
        "event_id": kwargs.get("litellm_call_id"),
        "occurred_at": start,  # the hook's own times have no time zone
        "response_time_ms": None if start is None or end is None else response_time(max(end - start, 0) * 1000),
        "cost_usd": call.get("response_cost") if has_cost else None,
        "success": success and said.get("success", True),
    }


def _owners(kwargs: Mapping[str, Any], call: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return who may own a call: first whom the caller names, then the end user, then the owner of the proxy's key."""
    given = kwargs.get("litellm_params") or {}
    end_user = call.get("end_user") or kwargs.get("user")
    key = call.get("metadata") or {}
    return [
        given.get("metadata") or {},
        given.get("litellm_metadata") or {},
        {"user_id": end_user},
        {"user_id": key.get("user_api_key_user_id")},
    ]
