"""usage-worker counts what users do with AI agents: exactly once, in batches, off the request path."""

from __future__ import annotations

from importlib import import_module

# As in `typing`, which takes 13 ms to load: until then Ctrl-C is Python's own.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from usage_worker.errors import UsageError
    from usage_worker.events.event import Event
    from usage_worker.publisher import PublisherStats, UsagePublisher, context, current_context

__all__ = ["Event", "PublisherStats", "UsageError", "UsagePublisher", "context", "current_context"]

# Loaded on first access: the command sets up what Ctrl-C does before anything that takes long to load.
_HOMES = {
    "Event": "usage_worker.events.event",
    "PublisherStats": "usage_worker.publisher",
    "UsageError": "usage_worker.errors",
    "UsagePublisher": "usage_worker.publisher",
    "context": "usage_worker.publisher",
    "current_context": "usage_worker.publisher",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
