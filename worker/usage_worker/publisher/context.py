"""For whom calls are made: set once for a request, and read wherever a call to a model is counted."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from uuid import UUID

_context: ContextVar[Mapping[str, Any]] = ContextVar("usage_worker", default=MappingProxyType({}))


@contextmanager
def context(
    *,
    user_id: UUID | str | int | None = None,
    agent_id: UUID | str | int | None = None,
    conversation_id: UUID | str | int | None = None,
) -> Iterator[None]:
    """Set for whom calls are made within a `with` block; an inner block adds to an outer one.

    `measure`, `stream` and `track_response` take from it what they are not given, and so do the integrations; `track`
    does not. It holds for this thread or this asyncio task, and for the tasks that are started within the block.
    A thread starts without it: run its function by `contextvars.copy_context().run`, as `asyncio.to_thread` does.
    """
    given = {"user_id": user_id, "agent_id": agent_id, "conversation_id": conversation_id}
    inner = {name: value for name, value in given.items() if value is not None}
    token = _context.set(MappingProxyType({**_context.get(), **inner}))
    try:
        yield
    finally:
        # A framework may end the block in another copy of the context, where nothing was set.
        with suppress(ValueError):
            _context.reset(token)


def current_context() -> dict[str, Any]:
    """Return the ids that are set at this place, by the names of their fields."""
    return dict(_context.get())
