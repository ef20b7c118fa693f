"""Why events are refused: the text of each reason beside its kind in the metrics."""

from __future__ import annotations

import re
from enum import Enum
from typing import Literal

Kind = Literal[
    "unknown_user",
    "unknown_agent",
    "forgotten_user",
    "too_old",
    "in_future",
    "refused_field",
    "unreadable",
    "reused_id",
    "full_counter",
    "other",
]


class Refusal(Enum):
    """A reason of ours: its kind, and its text, in which `{}` stands for what differs between events."""

    NO_USER = "unknown_user", "user_id: no such user"
    NO_AGENT = "unknown_agent", "agent_id: no such agent"
    FORGOTTEN = "forgotten_user", "user_id: this user was erased"
    TOO_OLD = "too_old", "occurred_at: older than {} ({} days)"
    DROPPED_DAY = (
        "too_old",
        "occurred_at: the ledger has dropped {}: an event of this day may have been counted before",
    )
    IN_FUTURE = "in_future", "occurred_at: more than {} minutes in the future"
    REUSED_ID = "reused_id", "id: was used before with other contents"
    FULL_COUNTER = "full_counter", "{}: this pair's would exceed {}"
    MISPLACED_RATING = "refused_field", "rating: goes with type rating, and only with it"
    TOO_MANY_TOKENS = "refused_field", "tokens: the sum of input and output tokens must be at most {}"
    UNKNOWN_VERSION = "unreadable", "v: the entry's version must be 1 or 2"
    UNREADABLE = "unreadable", "events: {}"
    CUT = "unreadable", "too large, only the beginning is kept; {}"
    SET_ASIDE = "unreadable", "the entry ended every worker that read it; it was not decoded again"

    def __init__(self, kind: Kind, text: str) -> None:
        self.kind = kind
        self.text = text

    def of(self, *values: object) -> str:
        """Return the text with these values."""
        return self.text.format(*values)


def kind_of(reason: str) -> Kind:
    """Return the kind of a dead letter's reason, of which the dead letter keeps the text alone.

    What others say (pydantic, Python, PostgreSQL) has a kind only where it begins with the name of a field.
    """
    found = next((refusal.kind for refusal, pattern in _PATTERNS if pattern.match(reason)), None)
    return found or ("refused_field" if _FIELD.match(reason) else "other")


# From the beginning: a reason that many events share has an end of its own, and a long one is cut.
_PATTERNS = [(refusal, re.compile(".*?".join(map(re.escape, refusal.text.split("{}"))))) for refusal in Refusal]
_FIELD = re.compile(r"(?!\w+Error: )\S+: ")
