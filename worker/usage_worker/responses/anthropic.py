"""Anthropic's messages: the input excludes what the cache read and wrote."""

from __future__ import annotations

from usage_worker.responses.reading import Counts, Family, has_count, member, text


def _is_message(response: object, usage: object) -> bool:
    has_cache = has_count(usage, "cache_read_input_tokens", "cache_creation_input_tokens")
    return has_cache or text(member(response, "type"), 20) == "message"


def _normalize(counts: Counts) -> Counts:
    parts = ("input_tokens", "cached_input_tokens", "cache_write_tokens")
    return {**counts, "input_tokens": sum(counts.get(part, 0) for part in parts)}


def _provider_of(response: object) -> str | None:
    """Return Anthropic where the id is one of its own; Bedrock's begin with msg_bdrk_, Vertex's with msg_vrtx_."""
    return "anthropic" if (text(member(response, "id"), 100) or "").startswith("msg_01") else None


MESSAGES = Family(
    matches=_is_message,
    names={
        "input_tokens": ("input_tokens",),
        "output_tokens": ("output_tokens",),
        "cached_input_tokens": ("cache_read_input_tokens",),
        "cache_write_tokens": ("cache_creation_input_tokens",),
        "reasoning_tokens": ("output_tokens_details.thinking_tokens",),
    },
    normalize=_normalize,
    provider_of=_provider_of,
)
