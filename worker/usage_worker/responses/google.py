"""Google's google-genai: the output excludes thoughts, and the prompts of tools stand beside the prompt."""

from __future__ import annotations

from usage_worker.responses.reading import Counts, Family, has_count

# As attributes, as in JSON, and as in the Interactions API.
_PROMPT = ("prompt_token_count", "promptTokenCount", "total_input_tokens")
_ANSWER = (
    "candidates_token_count",
    "candidatesTokenCount",
    "response_token_count",
    "responseTokenCount",
    "total_output_tokens",
)


def _is_content(_: object, usage: object) -> bool:
    return has_count(usage, *_PROMPT, *_ANSWER)


def _normalize(counts: Counts) -> Counts:
    counts["input_tokens"] = counts.get("input_tokens", 0) + counts.pop("tool_prompt", 0)
    counts["output_tokens"] = counts.get("output_tokens", 0) + counts.get("reasoning_tokens", 0)
    return counts


CONTENT = Family(
    matches=_is_content,
    names={
        "input_tokens": _PROMPT,
        "output_tokens": _ANSWER,
        "cached_input_tokens": ("cached_content_token_count", "cachedContentTokenCount", "total_cached_tokens"),
        "reasoning_tokens": ("thoughts_token_count", "thoughtsTokenCount", "total_thought_tokens"),
        "tool_prompt": ("tool_use_prompt_token_count", "toolUsePromptTokenCount", "total_tool_use_tokens"),
    },
    normalize=_normalize,
    model=("model_version", "modelVersion"),
    provider_of=lambda _: "google",
)
