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
_VALUES = """
## Values

One table for every entry point: `track`, `rate` and `add`, stream entries, Celery tasks, lines of files, replays of
dead letters.

"""
_FIELDS = ("field", "accepted", "rounded", "unknown", "refused")
_RULES = [
    (
        "`messages`, all fields of tokens",
        'integers, other numbers that are whole (`812.0`), texts of such numbers (`"812"`)',
        "",
        "null: the default",
        "`812.5`, booleans",
    ),
    ("`response_time_ms`", "numbers, texts of numbers", "half-even to whole milliseconds", "null", "booleans"),
    (
        "`cost_usd`, `rating`",
        "numbers, texts of numbers",
        "half-even to ten decimals; a float is read by its shortest decimal form",
        "null",
        "booleans",
    ),
    (
        "`success`",
        "true, false, 1 and 0, also as texts in any case",
        "",
        "null: true",
        "any other number or text",
    ),
    (
        "`occurred_at`",
        "aware datetimes, texts of ISO 8601 with a time zone, seconds since 1970 as a number or its text",
        "to microseconds; further digits of an ISO text are cut off",
        "null: see Identity",
        "times without a time zone (files: `--assume-utc`), milliseconds since 1970",
    ),
    (
        "`user_id`, `agent_id`, `conversation_id`",
        "UUIDs, texts of them; with `USAGE_IDS=uuid5` also whole numbers and any text of 1 to 255 characters",
        "",
        "null: `conversation_id` only",
        "numbers and other texts without `USAGE_IDS=uuid5`; booleans, `42.0`, U+0000",
    ),
    ("`type`", "`usage`, `rating`", "", "null: `usage`", "any other text"),
    ("`event_id`, `model`, `provider`", "texts, for `event_id` also UUIDs", "", "null", "numbers, U+0000"),
]
_MORE = """
- A text of a number has ASCII digits, and may have a point, a minus and an exponent; not a space, an underscore, a plus
  sign before the number or more than 1,000 characters. A cell of a CSV file is a text, and an empty one is null.
- Every number is rounded first and compared with its bounds then. What is rounded to zero is zero, without a sign. NaN
  and infinity are refused.
- Decimals, fractions and the numbers of numpy are numbers.
- Where `tokens` is not given, the bounds hold for the sum of input and output tokens.

## Times

An event is accepted from `USAGE_ACCEPT_DAYS` days before now to five minutes after it, by PostgreSQL's clock. A worker
whose own clock differs from that by more than a minute takes no events, and says so. An event without a time has the
time at which its publisher took it or, from other producers, at which Redis added its entry; the same window holds for
both.

## Identity

`event_id` is the event's identity: sent again, by whichever process and entry point, the event counts once. Give a key
**always with the same time, or always without one**:

- With `occurred_at`, the identity is key and time, for as long as the ledger keeps the day.
- Without, the time of the first delivery is kept with the key for the acceptance window, and is the time of all later
  deliveries. That holds for a UUID as for any other text. Our publisher gives such an event its time, and marks the
  entry with the field `times`, `publisher`.

A refused event does not use up its key: corrected and sent again with the same key, it counts.

An event without `event_id` is identified by its stream entry: sent again by the application, it is another event.
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
    return (
        _INTRODUCTION
        + table(("field", "type", "default", "bounds", "meaning"), rows)
        + _VALUES
        + table(_FIELDS, _RULES)
        + _MORE
    )


def _default(name: str, value: object) -> str:
    if name in REQUIRED:
        return "required"
    return "null" if value is None else code(str(value).lower())
