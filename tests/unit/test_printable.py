"""Text from outside is escaped and cut."""

from __future__ import annotations

import pytest

from usage_worker.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("user_id: no such user", "user_id: no such user"),
        ("Größe 7 → ok", "Größe 7 → ok"),
        ("a\nb\tc\rd\x1b[31m\x7f\x00", r"a\nb\tc\rd\x1b[31m\x7f\x00"),
        ("\x9b31m\u202e\u2028", r"\x9b31m\u202e\u2028"),
        ("\ud800", r"\ud800"),
        ("", ""),
        ("x" * 200, "x" * 200),
        ("x" * 200_000, "x" * 197 + "..."),
        ("\x1b" * 100, "\\x1b" * 49 + "\\" + "..."),
    ],
)
def test_printable_form(text: str, shown: str) -> None:
    assert printable(text) == shown
