"""docs/reference/events.md, from `Event`."""

from __future__ import annotations

from typing import get_type_hints

from tools.reference.annotations import bounds, meanings, type_words
from tools.reference.markdown import code, table
from usage_worker.events.event import REQUIRED, Event, values_of

_INTRODUCTION = """\
# Event fields

What an event may contain, whichever way it is published. The publisher refuses, and the worker quarantines, an event
with a field that is not listed or a value out of bounds. Null means unknown and is never counted as 0.

"""


def page() -> str:
    """Return the page."""
    texts = meanings(Event)
    types = get_type_hints(Event, include_extras=True)
    defaults = dict(zip(types, values_of({}), strict=True))
    rows = [
        (code(name), type_words(kind), _default(name, defaults[name]), bounds(kind), texts[name])
        for name, kind in types.items()
    ]
    return _INTRODUCTION + table(("field", "type", "default", "bounds", "meaning"), rows)


def _default(name: str, value: object) -> str:
    if name in REQUIRED:
        return "required"
    return "null" if value is None else code(str(value).lower())
