"""Escape and cut text from outside, for terminals, log lines and any database encoding."""

from __future__ import annotations

# Longest text within a line, and longest reason of a refused event, in characters.
PRINTABLE_LENGTH = 200
REASON_LENGTH = 500
# Longest line that a command prints and longest field of a log line; a check's reason with its remedy has 700.
LINE_LENGTH = 1_000


def printable(text: str, length: int = PRINTABLE_LENGTH) -> str:
    r"""Escape what is not printable (a newline becomes `\n`), and cut what is longer than `length` characters."""
    head = text[: length + 1]
    if not head.isprintable():
        head = "".join(map(_escaped, head))
    return head if len(head) <= length else head[: length - 3] + "..."


def is_unicode(text: str) -> bool:
    """Return whether UTF-8 can encode a text, which has no half of a surrogate pair then."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
