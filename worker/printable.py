"""Text from outside, made fit for a terminal, a table and a line of a log."""

from __future__ import annotations

PRINTABLE_LENGTH = 200


def printable(text: str, length: int = PRINTABLE_LENGTH) -> str:
    r"""Escape what is not printable (a newline becomes `\n`), and cut what is longer than `length` characters."""
    head = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[: length + 1]
    )
    return head if len(head) <= length else f"{head[: length - 1]}…"
