"""Remove the passwords of URLs from texts."""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus, unquote, unquote_plus

MASK = "***"
_PASSWORDS = (
    # For libpq the user part ends at the first @, for the Redis client at the last one before the path.
    re.compile(r"://[^:@/]*:([^@/]*)@"),
    re.compile(r"://[^:/?#]*:([^/?#]*)@"),
    # Parameters, as the two drivers call them.
    re.compile(r"[?&](?:password|sslpassword|(?:ssl|sentinel)_password)=([^&#]*)"),
)


class Mask:
    """Replaces the passwords of some URLs in a text, however they are written there."""

    def __init__(self, urls: list[str], passwords: list[str]) -> None:
        written = {text for url in urls for pattern in _PASSWORDS for text in pattern.findall(url)}
        spellings = {spelling for text in [*written, *passwords] for spelling in _spellings(text)}
        # The longest first: one spelling may be the beginning of another.
        parts = [_whole(spelling) for spelling in sorted(spellings, key=len, reverse=True)]
        self._pattern = re.compile("|".join(parts)) if parts else None

    def __call__(self, text: str) -> str:
        return self._pattern.sub(MASK, text) if self._pattern else text


def _spellings(written: str) -> set[str]:
    """Return a password as given, decoded, and as URLs, libpq's parameters and Python's literals encode it."""
    plain = {written, unquote(written), unquote_plus(written)}
    encoded = {encode(text) for text in plain for encode in (quote, quote_plus, _fully_quoted, _escaped, _literal)}
    return (plain | encoded) - {""}


def _fully_quoted(text: str) -> str:
    return quote(text, safe="")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _literal(text: str) -> str:
    return repr(text)[1:-1]


def _whole(text: str) -> str:
    """Return a pattern for the text as a whole word: a password `usage` leaves `usage_events` alone."""
    before = r"\b" if text[0].isalnum() else ""
    after = r"\b" if text[-1].isalnum() else ""
    return f"{before}{re.escape(text)}{after}"
