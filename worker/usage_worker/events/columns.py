"""The columns of an event: their order, forms and bounds, written once.

`Event` has the same fields in the same order, and so have the wire, the worker's arrays and what is copied into the
ledger; a test compares them with one another and with the catalogue.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final, NamedTuple

# Decimals of a US dollar and of a rating that are kept, as in the columns of the ledger.
DECIMALS: Final = 10
UNIT: Final = 10**DECIMALS
"""Units of a decimal on the wire in one US dollar, and in one point of a rating."""
MAX_TOKENS: Final = 10**12
"""A counter takes nine million such events before it is full."""
MAX_MESSAGES: Final = 1_000_000
MAX_MILLISECONDS: Final = 86_400_000
MAX_DOLLARS: Final = 1_000_000
MAX_RATING: Final = 5
MAX_MODEL: Final = 200
MAX_PROVIDER: Final = 100
KINDS: Final = ("usage", "rating")
MAX_ENTRY_EVENTS: Final = 100_000
"""An entry with more events is refused as a whole."""
PACK_EVENTS: Final = 500
"""The most events in one of our own entries, unless an application says otherwise."""
MAX_PACK_EVENTS: Final = 3_500
"""What an application may say. An event takes 2.1 kB at most, and its ids 4.7 kB, if JSON escapes each character of
its texts: more of them might exceed the 16 MiB that the worker reads of either."""
LAST_TIME: Final = 253_402_300_799_999_999
"""The last microsecond of the year 9999, since 1970."""


class Form(Enum):
    """What the values of a column are on the wire."""

    UUID = auto()
    """32 hexadecimal digits."""
    TIME = auto()
    """Microseconds since 1970, UTC."""
    KIND = auto()
    """One of `KINDS`."""
    NUMBER = auto()
    """An integer from 0 on."""
    DECIMAL = auto()
    """A number of 10⁻¹⁰ US dollars, or points of a rating: an integer from 0 on."""
    TRUTH = auto()
    """true or false."""
    TEXT = auto()
    """Text without U+0000."""


class Column(NamedTuple):
    """A column of an event.

    `most` is the greatest value on the wire, or the greatest length of a text. `default` is the value of a column that
    is missing; where it is None, the value is required, unknown, or follows from others: identity and time from the
    entry, the tokens from their sum.
    """

    name: str
    form: Form
    sql_type: str
    most: int = 0
    default: object = None


COLUMNS: Final = (
    Column("event_id", Form.UUID, "uuid"),
    Column("occurred_at", Form.TIME, "timestamptz"),
    Column("type", Form.KIND, "text", default="usage"),
    Column("user_id", Form.UUID, "uuid"),
    Column("agent_id", Form.UUID, "uuid"),
    Column("messages", Form.NUMBER, "integer", MAX_MESSAGES, 1),
    Column("input_tokens", Form.NUMBER, "bigint", MAX_TOKENS, 0),
    Column("output_tokens", Form.NUMBER, "bigint", MAX_TOKENS, 0),
    Column("tokens", Form.NUMBER, "bigint", MAX_TOKENS),
    Column("cached_input_tokens", Form.NUMBER, "bigint", MAX_TOKENS),
    Column("cache_write_tokens", Form.NUMBER, "bigint", MAX_TOKENS),
    Column("reasoning_tokens", Form.NUMBER, "bigint", MAX_TOKENS),
    Column("cost_usd", Form.DECIMAL, "numeric(20,10)", MAX_DOLLARS * UNIT),
    Column("response_time_ms", Form.NUMBER, "integer", MAX_MILLISECONDS),
    Column("success", Form.TRUTH, "boolean", default=True),
    Column("conversation_id", Form.UUID, "uuid"),
    Column("model", Form.TEXT, "text", MAX_MODEL),
    Column("provider", Form.TEXT, "text", MAX_PROVIDER),
    Column("rating", Form.DECIMAL, "numeric(12,10)", MAX_RATING * UNIT),
)
NAMES: Final = tuple(column.name for column in COLUMNS)
IDENTITY: Final = ("event_id", "occurred_at", "type", "user_id", "agent_id")
"""Which event it is, and for whom it counts: what a correction keeps."""
CORRECTABLE: Final = tuple(name for name in NAMES if name not in IDENTITY)

Row = tuple[Any, ...]
"""An event's values in the order of the columns, as on the wire; None is the default.

The worker's rows have ids as UUIDs; the publisher's as their numbers, the event's own as text.
"""
