"""What the integrations share: whom a model call belongs to, and how it is published."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from usage_worker.events.event import EVENT, REQUIRED
from usage_worker.events.external_ids import IdReader
from usage_worker.publisher.rate_limited_log import RateLimitedLog, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from uuid import UUID

    from usage_worker.publisher import UsagePublisher

IDS = ("user_id", "agent_id", "conversation_id")


def known(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that have a value."""
    return {name: value for name, value in fields.items() if value not in (None, "")}


def owner(*sources: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ids of user, agent and conversation, each from the first source that has it."""
    found: dict[str, Any] = {}
    for source in reversed(sources):
        found |= known({name: source.get(name) for name in IDS})
    return found


class ModelCalls:
    """Publishes model calls as events.

    Args:
        usage: the publisher; it stays open.
        advice: how users of the framework say whom a call belongs to.
        user_id: the user of calls that name none.
        agent_id: the agent of calls that name none.
    """

    def __init__(
        self, usage: UsagePublisher, advice: str, user_id: UUID | str | int | None, agent_id: UUID | str | int | None
    ) -> None:
        self.usage = usage
        self._advice = advice
        self._defaults = {"user_id": user_id, "agent_id": agent_id}
        self._advised = False
        self._log = RateLimitedLog()

    def publish(self, fields: Mapping[str, Any], *owners: Mapping[str, Any]) -> None:
        """Publish a call; each id is the first one that `owners` give.

        A call without user or agent, or outside the acceptance window, is refused. Any other value that an event cannot
        hold is left out and logged; an `event_id` is hashed.
        """
        ids = owner(*owners, self._defaults)
        if not (self._advised or {"user_id", "agent_id"} <= ids.keys()):
            self._advised = True
            say(logging.WARNING, "model calls without user_id or agent_id are refused; %s", self._advice)
        self.usage.add(self._without_invalid({**known(fields), **ids}))

    def _without_invalid(self, fields: dict[str, Any]) -> dict[str, Any]:
        try:
            EVENT.validator.validate_python(fields, context=self.usage.ids and IdReader(self.usage.ids))
        except ValidationError as error:
            wrong = {str(item["loc"][0]) for item in error.errors(include_url=False, include_input=False)} - REQUIRED
            valid = {name: value for name, value in fields.items() if name not in wrong}
            if "event_id" in wrong:
                # Made of it, so that a call that is logged twice still counts once.
                wrong.remove("event_id")
                valid["event_id"] = sha256(str(fields["event_id"]).encode("utf-8", "surrogatepass")).hexdigest()
            if wrong:
                what = ", ".join(sorted(wrong))
                self._log(logging.WARNING, "a model call is counted without %s, which no event can hold", what)
            return valid
        return fields

    @contextmanager
    def contained(self) -> Iterator[None]:
        """Log an exception of the block: no call to a model may fail because it is counted."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - objects of other libraries, of any version
            self._log(logging.ERROR, "a model call was not counted: %s: %s", type(error).__name__, error)
