"""Text that would harm a terminal or forge a line, and the check that none of it came through."""

from __future__ import annotations

# ESC, newline, carriage return, tab, CSI as C1 control, line separator, right-to-left override, tag, lone surrogate.
HOSTILE = "a\x1b[31m\nforged\r\tb\x9b31m\u2028c\u202ed\U000e0041\ud800e"
# As JSON and PostgreSQL take it.
HOSTILE_TEXT = HOSTILE.replace("\ud800", "")
LONG = HOSTILE_TEXT + "x" * 200_000
# Lines of child processes are the longest that are passed on: 10,000 characters after the name.
LINE_LIMIT = 10_020


def check_shown(output: str, tabs: int = 0) -> None:
    """Assert that the output is printable but for so many tabs per line, and that no line is forged or endless."""
    for line in output.split("\n"):
        assert line.replace("\t", "").isprintable(), line[:300]
        assert line.count("\t") <= tabs, line[:300]
        assert not line.startswith("forged"), line[:300]
        assert len(line) <= LINE_LIMIT, (len(line), line[:100], line[-100:])
