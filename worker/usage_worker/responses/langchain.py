"""LangChain's messages and the LLMResult of its callbacks.

Input includes the cache and output includes reasoning. The chunks of a stream are increments, as `add_usage` of
langchain-core adds them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.responses.reading import Counts, Family, dollars, has_count, member

if TYPE_CHECKING:
    from collections.abc import Iterable


def _has_tokens(_: object, usage: object) -> bool:
    return has_count(usage, "input_tokens", "output_tokens")


def _normalize(counts: Counts) -> Counts:
    # langchain-anthropic splits what was written by how long it is kept, and `cache_creation` is 0 then.
    parts = [counts.pop(name) for name in ("cache_write_tokens", "kept_5m", "kept_1h") if name in counts]
    if parts:
        counts["cache_write_tokens"] = sum(parts)
    return counts


def _with_tiers(path: str, name: str) -> tuple[str, ...]:
    """Return the paths of a detail, which langchain-openai names after a service tier, too."""
    return tuple(f"{path}.{tier}{name}" for tier in ("", "priority_", "flex_"))


MESSAGES = Family(
    matches=_has_tokens,
    names={
        "input_tokens": ("input_tokens",),
        "output_tokens": ("output_tokens",),
        "cached_input_tokens": _with_tiers("input_token_details", "cache_read"),
        "cache_write_tokens": _with_tiers("input_token_details", "cache_creation"),
        "kept_5m": ("input_token_details.ephemeral_5m_input_tokens",),
        "kept_1h": ("input_token_details.ephemeral_1h_input_tokens",),
        "reasoning_tokens": _with_tiers("output_token_details", "reasoning"),
        "total": ("total_tokens",),
    },
    normalize=_normalize,
    model=("response_metadata.model_name", "response_metadata.model", "llm_output.model_name", "llm_output.model"),
    provider=("response_metadata.model_provider",),
    additive=True,
)


def messages_of(result: object) -> list[object]:
    """Return the first message for each prompt of an LLMResult; the others repeat its counts."""
    generations = member(result, "generations")
    if type(generations) is not list:
        return []
    firsts = (prompt[0] if type(prompt) is list and prompt else prompt for prompt in generations)
    return [message for first in firsts if (message := member(first, "message")) is not None]


def cost_of(messages: Iterable[object]) -> float | None:
    """Return the cost in US dollars, if each of the messages says its own: langchain-core's cache sets 0."""
    costs = [dollars(member(message, "usage_metadata.total_cost")) for message in messages]
    known = [cost for cost in costs if cost is not None]
    return dollars(sum(known)) if len(known) == len(costs) else None
