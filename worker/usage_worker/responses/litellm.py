"""LiteLLM's objects: those of OpenAI, with what LiteLLM knows besides in `_hidden_params`, and its types of calls."""

from __future__ import annotations

from usage_worker.responses.openai import CHAT
from usage_worker.responses.reading import dollars, first_count, member

# Of the last chunk of a stream, for some providers also without `include_usage`.
USAGE = "_hidden_params.usage"
# LiteLLM logs all calls of an API, also those that list files. Of other types, it is one with tokens or a cost that
# counts.
_MODEL_CALLS = frozenset({
    "completion", "text_completion", "embedding", "responses", "anthropic_messages", "generate_content",
    "generate_content_stream", "image_generation", "image_edit", "transcription", "speech", "rerank",
})  # fmt: skip
# These return an earlier answer once more, with the usage of the call that made it.
_REPEATS = frozenset({"get_responses", "cancel_responses"})


def _is_reported(_: object, usage: object) -> bool:
    """Return whether these counts are some: LiteLLM's UnreportedUsage has zeros."""
    return bool(first_count(usage, ("total_tokens",)))


COMPLETION = CHAT._replace(matches=_is_reported, provider=("_hidden_params.custom_llm_provider",))


def cost_of(response: object) -> float | None:
    """Return the cost in US dollars, as LiteLLM calculated it with its own or the application's prices."""
    return dollars(member(response, "_hidden_params.response_cost"))


def is_model_call(kind: str, *, has_usage: bool) -> bool:
    """Return whether a call of this type, which begins with `a` where it is asynchronous, is a use of a model."""
    spellings = (kind, kind.removeprefix("a"))
    return _REPEATS.isdisjoint(spellings) and (has_usage or not _MODEL_CALLS.isdisjoint(spellings))
