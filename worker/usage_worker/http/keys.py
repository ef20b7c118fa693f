"""API keys: random texts, of which the setting USAGE_API_KEYS has only the name, the right and the SHA-256.

A plain hash is enough, since a key has 256 random bits: nobody can try them out.
"""

from __future__ import annotations

import re
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest
from secrets import token_urlsafe
from typing import NamedTuple

from usage_worker.errors import ArgumentError, SettingsError

# Scanners for secrets find it by its beginning.
_PREFIX = "usage_"
_RANDOM_BYTES = 32
_ENTRY = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}):(?P<right>write|read):(?P<digest>[0-9a-f]{64})", re.ASCII)


class Right(StrEnum):
    """What a key may do."""

    WRITE = "write"
    """Send events."""
    READ = "read"
    """Read totals, and see the page."""


class ApiKey(NamedTuple):
    """An entry of USAGE_API_KEYS; `digest` is the SHA-256 of the key, in hexadecimal."""

    name: str
    right: Right
    digest: str

    def __str__(self) -> str:
        return f"{self.name}:{self.right}:{self.digest}"


def make_key(name: str, right: Right) -> tuple[str, ApiKey]:
    """Make a key. Returns the key, which is stored nowhere, and its entry for the setting.

    Raises:
        ArgumentError: the name has other characters than letters, digits, `.`, `_` and `-`, or more than 64.
    """
    key = _PREFIX + token_urlsafe(_RANDOM_BYTES)
    entry = ApiKey(name, right, digest_of(key))
    if not _ENTRY.fullmatch(str(entry)):
        raise ArgumentError("NAME: up to 64 letters, digits, dots, hyphens and underscores")
    return key, entry


def parse_keys(setting: str) -> list[ApiKey]:
    """Read USAGE_API_KEYS: entries `name:right:sha256`, separated by commas.

    Raises:
        SettingsError: an entry cannot be read, or a name or a key is there twice.
    """
    keys = []
    for place, text in enumerate(filter(None, map(str.strip, setting.split(","))), start=1):
        match = _ENTRY.fullmatch(text)
        if match is None:
            # Not quoted: it may be the key itself.
            raise SettingsError(
                f"USAGE_API_KEYS: entry {place} is not NAME:write|read:SHA256; see usage-worker new-key"
            )
        keys.append(ApiKey(match["name"], Right(match["right"]), match["digest"]))
    if len({key.name for key in keys}) < len(keys) or len({key.digest for key in keys}) < len(keys):
        raise SettingsError("USAGE_API_KEYS: two entries have the same name or the same key")
    return keys


def find_key(keys: list[ApiKey], given: str) -> ApiKey | None:
    """Return the entry of a key, None where there is none; takes the same time for each."""
    digest = digest_of(given)
    found = [key for key in keys if compare_digest(key.digest, digest)]
    return found[0] if found else None


def digest_of(key: str) -> str:
    """Return the SHA-256 of a key, in hexadecimal."""
    return sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
