"""OpenTelemetry: count the model calls of whatever makes GenAI spans, such as pydantic-ai.

Example:
    >>> tracer_provider.add_span_processor(UsageSpanProcessor(usage))

Attributes are those of the semantic conventions for generative AI, whose token counts mean what ours mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from usage_worker.errors import needs_extra
from usage_worker.integrations.model_calls import ModelCalls, owner
from usage_worker.integrations.open_calls import OpenCalls
from usage_worker.publisher.call import response_time
from usage_worker.publisher.context import current_context
from usage_worker.responses import TOKEN_FIELDS
from usage_worker.responses.reading import count, with_parts

with needs_extra("otel"):
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import StatusCode, get_current_span

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span
    from opentelemetry.trace import SpanContext

    from usage_worker.publisher import UsagePublisher

_OPERATION = "gen_ai.operation.name"
# Spans of agents and workflows repeat the sums of the calls in them.
_MODEL_CALLS = frozenset({"chat", "text_completion", "generate_content", "embeddings"})
# The names of the conventions first, then their older ones and those of OpenLLMetry and pydantic-ai.
_IDS = {
    "user_id": ("user.id", "enduser.id"),
    "agent_id": ("gen_ai.agent.id", "gen_ai.agent.name"),
    "conversation_id": ("gen_ai.conversation.id",),
}
_FIELDS = {
    "input_tokens": ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
    "output_tokens": ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"),
    "cached_input_tokens": ("gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens"),
    "cache_write_tokens": ("gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_creation_input_tokens"),
    "reasoning_tokens": ("gen_ai.usage.reasoning.output_tokens", "gen_ai.usage.details.reasoning_tokens"),
    "model": ("gen_ai.response.model", "gen_ai.request.model"),
    "provider": ("gen_ai.provider.name", "gen_ai.system"),
}
_NANOSECONDS = 10**9
_NOTHING: Mapping[str, Any] = {}


class _Opened(NamedTuple):
    """What the end of a span no longer shows: ids of the spans above it, and of `usage_worker.context` at its start."""

    above: dict[str, Any]
    context: dict[str, Any]
    in_call: bool


class UsageSpanProcessor(SpanProcessor):
    """A span processor that publishes an event for each call to a model; it never raises.

    User, agent and conversation are those of the span (`user.id`, `gen_ai.agent.id` or its name,
    `gen_ai.conversation.id`); else those of the nearest span above it; else those of `usage_worker.context` at its
    start. Baggage is not read: whoever sends a request can set it. A call within the span of another counts once.

    Args:
        usage: the publisher; it stays open.
        user_id: the user of spans that name none.
        agent_id: the agent of spans that name none.
    """

    def __init__(
        self,
        usage: UsagePublisher,
        *,
        user_id: UUID | str | int | None = None,
        agent_id: UUID | str | int | None = None,
    ) -> None:
        advice = "set the attributes user.id and gen_ai.agent.id of a span, or call the model in `usage_worker.context`"
        self._calls = ModelCalls(usage, advice, user_id, agent_id)
        self._open: OpenCalls[tuple[int, int], _Opened] = OpenCalls()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        with self._calls.contained():
            parent = get_current_span(parent_context)
            attributes = getattr(parent, "attributes", None) or _NOTHING  # a remote one has none
            above = self._open.get(_key(parent.get_span_context())) or _Opened({}, {}, in_call=False)
            operation = attributes.get(_OPERATION)
            opened = _Opened(
                owner(_read(attributes, _IDS), above.above),
                owner(current_context(), above.context),
                in_call=operation in _MODEL_CALLS if operation else above.in_call,
            )
            self._open.begin(_key(span.get_span_context()), opened)

    def on_end(self, span: ReadableSpan) -> None:
        with self._calls.contained():
            context = span.get_span_context()
            if context is None:
                return
            opened = self._open.end(_key(context)) or _Opened({}, {}, in_call=False)
            attributes = span.attributes or _NOTHING
            if opened.in_call or attributes.get(_OPERATION) not in _MODEL_CALLS:
                return
            start, end = span.start_time or 0, span.end_time or 0
            fields = _fields(attributes) | {
                "event_id": f"{context.trace_id:032x}-{context.span_id:016x}",
                "occurred_at": start / _NANOSECONDS,
                "response_time_ms": response_time(max(end - start, 0) / 1_000_000),
                "success": span.status.status_code is not StatusCode.ERROR,
            }
            self._calls.publish(fields, _read(attributes, _IDS), opened.above, opened.context)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until every accepted event is in Redis; return False when that takes longer."""
        return self._calls.usage.flush(timeout_millis / 1000)

    def shutdown(self) -> None:
        """Send what was published; whoever made the publisher closes it."""
        self._calls.usage.flush()


def _key(context: SpanContext) -> tuple[int, int]:
    return context.trace_id, context.span_id


def _fields(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the attributes say, some of which exclude the cache from the input, as those of Bedrock do."""
    fields = _read(attributes, _FIELDS)
    counts = {name: number for name in TOKEN_FIELDS if (number := count(fields.get(name))) is not None}
    return fields | with_parts(counts)


def _read(attributes: Mapping[str, Any], names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Return each field's first attribute that is there."""
    found = {
        field: next((attributes[name] for name in spellings if name in attributes), None)
        for field, spellings in names.items()
    }
    return {field: value for field, value in found.items() if value is not None}
