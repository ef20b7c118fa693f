"""The text of a refusal: it quotes names and values from outside, and must harm no log, terminal or database."""

from __future__ import annotations

MAX_REASON = 500


def reason_text(text: str) -> str:
    """Escape what is not printable (control characters, lone surrogates), and cut to `MAX_REASON` characters."""
    kept = text[: MAX_REASON + 1]
    if not kept.isprintable():
        kept = "".join(map(_escaped, kept))
    return kept if len(kept) <= MAX_REASON else kept[: MAX_REASON - 3] + "..."


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
