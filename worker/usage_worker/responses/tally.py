"""Reads one response, or the chunks of a stream one after the other."""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

from usage_worker.events.columns import MAX_MODEL, MAX_PROVIDER
from usage_worker.responses import anthropic, google, langchain, litellm, openai, pydantic_ai
from usage_worker.responses.reading import count, first_text, member

if TYPE_CHECKING:
    from usage_worker.responses.reading import Counts, Family

_ANY = (openai.CHAT, google.CONTENT, pydantic_ai.RUN, anthropic.MESSAGES, openai.RESPONSES)
# Where the counts of a response stand, and the families that have them there; "" is the response itself.
_PLACES: dict[str, tuple[Family, ...]] = {
    "usage": _ANY,
    "usage_metadata": (google.CONTENT, langchain.MESSAGES),
    "usageMetadata": (google.CONTENT,),
    litellm.USAGE: (litellm.COMPLETION,),
    "context_wrapper.usage": (openai.RESPONSES,),
    "llm_output.token_usage": _ANY,
    "llm_output.usage": _ANY,
    "": _ANY,
}
_FAMILIES = (litellm.COMPLETION, pydantic_ai.RUN, langchain.MESSAGES, google.CONTENT, openai.CHAT)
_MODEL = tuple(dict.fromkeys(path for family in _FAMILIES for path in family.model))
_PROVIDER = tuple(dict.fromkeys(path for family in _FAMILIES for path in family.provider))
# What the events of a stream carry: Responses, Anthropic's messages and LangChain's generations, the events of the
# helper `client.chat.completions.stream`, those of pydantic-ai.
_INNER = ("response", "message", "chunk", "result")


def fields_of(response: object) -> dict[str, Any]:
    """Return the fields of an event that a provider's response, or a plain dictionary of its shape, says.

    Input tokens include cached and written ones, output tokens include reasoning, whatever the provider calls them.
    What cannot be read is left out; without any count, there are no fields of tokens. Never raises.
    """
    tally = Tally()
    tally.add(response)
    return tally.fields()


class Tally:
    """What the chunks of a stream have said so far; a response is a stream of one."""

    def __init__(self) -> None:
        self._family: Family | None = None
        self._counts: Counts = {}
        self._said: dict[str, Any] = {}

    def add(self, chunk: object) -> None:
        """Read a chunk."""
        messages = [self._read(message) for message in langchain.messages_of(chunk)]
        if any(messages):
            self._read_names(chunk)
        elif not self._read(chunk):
            any(self._read(inner) for path in _INNER if (inner := member(chunk, path)) is not None)

    def fields(self) -> dict[str, Any]:
        """Return the fields of an event; see `fields_of`."""
        counts = self._family.meaning(dict(self._counts)) if self._family else {}
        return {**self._said, **{name: number for name, number in counts.items() if count(number) is not None}}

    def _read(self, response: object) -> bool:
        """Read what one object says; return whether it has counts."""
        self._read_names(response)
        family, counts = _find(response, self._family)
        if family is None:
            return False
        if family is self._family and family.additive:
            counts = {name: self._counts.get(name, 0) + counts.get(name, 0) for name in {**self._counts, **counts}}
        elif family is self._family:
            counts = {**self._counts, **counts}
        self._family, self._counts = family, counts
        if ran_by := family.ran_by(response):
            self._said.setdefault("provider", ran_by)
        return True

    def _read_names(self, response: object) -> None:
        said = {
            "model": first_text(response, _MODEL, MAX_MODEL),
            "provider": first_text(response, _PROVIDER, MAX_PROVIDER),
            "cost_usd": litellm.cost_of(response),
            "success": False if openai.has_failed(response) else None,
        }
        self._said |= {name: value for name, value in said.items() if value is not None}


def _find(response: object, expected: Family | None) -> tuple[Family | None, Counts]:
    """Return the counts of a response and their family; a stream's later chunks may show fewer signs of it."""
    for place, families in _PLACES.items():
        usage = _usage_at(response, place)
        if usage is None:
            continue
        for family in families:
            if (family is expected or family.fits(response, usage)) and (counts := family.counts(usage)):
                return family, counts
    return None, {}


def _usage_at(response: object, place: str) -> object:
    usage = member(response, place) if place else response
    if type(usage) is MethodType:  # pydantic-ai before 2
        try:
            return usage()
        except Exception:  # noqa: BLE001 - whatever it raises, there are no counts
            return None
    return usage
