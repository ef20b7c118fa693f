"""A whole entry as text for its dead letter, from which exactly its fields can be restored.

Usually a JSON object of the fields. A value is text, or one of `base64:…`, bytes that are not UTF-8; `zlib:…`, base64
of compressed bytes, where they are many; `cut:…`, the beginning of what is too large even so. A plain body, of an entry
whose other fields follow from the columns of the dead letter, is kept as it is, so that people can repair it.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING

from usage_worker.queue.entry import OBJECTS, RawEntry, key_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

# Longer values, in bytes, are compressed: a dead letter is sent, shown and exported as a whole.
_PLAIN_BYTES = 2**20
# More than this, compressed, is cut: as base64 and quoted, PostgreSQL could not take twice as much.
MAX_KEPT_BYTES = 200_000_000
_PREFIXES = ("base64:", "zlib:", "cut:")
# The longest value that Redis takes. An event can hold text in our form, with a million times more behind it.
_MAX_VALUE_BYTES = 2**29


def kept(stream: str, raw: RawEntry, key: UUID, events: int) -> str:
    """Return an entry's fields as ASCII text, for a dead letter with these columns."""
    body = raw.body or b""
    if body.isascii() and not body.startswith(b"{") and b"\x00" not in body and len(body) <= _PLAIN_BYTES:
        text = body.decode("ascii")
        if body and restored(text, stream, raw.entry_id, key, events) == raw.fields:
            return text
    return kept_fields(raw)


def kept_fields(raw: RawEntry) -> str:
    """Return an entry's fields as a JSON object, in ASCII, whatever the columns of its dead letter say."""
    return json.dumps({_text(name): _text(value) for name, value in raw.fields.items()})


def restored(text: str, stream: str, entry_id: str, key: UUID, events: int) -> dict[bytes, bytes]:
    """Return the fields of the entry whose dead letter has this payload and these columns.

    Raises:
        ValueError: the payload is not that of a whole entry, or its entry was too large to be kept whole.
    """
    if text.startswith("{"):
        try:
            return fields_of(json.loads(text))
        except RecursionError:
            raise ValueError("is not a whole entry") from None
    fields = {b"v": OBJECTS, b"n": b"%d" % events, b"events": text.encode()}
    if key_of(stream, RawEntry(entry_id, fields)) != key:
        fields[b"id"] = str(key).encode()
    return fields


def fields_of(texts: Mapping[str, str]) -> dict[bytes, bytes]:
    """Return the fields that were kept as a JSON object.

    Raises:
        ValueError: they are not fields, or one of them was too large to be kept whole.
    """
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("is not a whole entry")
    return {_content(name): _content(value) for name, value in texts.items()}


def is_cut(text: str) -> bool:
    """Return whether a part of the entry was too large to be kept."""
    return '": "cut:' in text  # inside a value the quotes would be escaped


def _text(content: bytes) -> str:
    """Return bytes as text that can be converted back."""
    if len(content) > _PLAIN_BYTES:
        packed = zlib.compress(content, 1)
        whole = len(packed) <= MAX_KEPT_BYTES
        return f"{'zlib' if whole else 'cut'}:{b64encode(packed[:MAX_KEPT_BYTES]).decode()}"
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = ""
    # What looks like one of our forms would be read as one.
    return text if (text or not content) and not text.startswith(_PREFIXES) else f"base64:{b64encode(content).decode()}"


def _content(text: str) -> bytes:
    form, colon, packed = text.partition(":")
    if not colon:
        return text.encode()
    if form == "base64":
        return b64decode(packed, validate=True)
    if form == "zlib":
        return _decompressed(b64decode(packed, validate=True))
    if form == "cut":
        raise ValueError("the entry was too large to be kept whole")
    return text.encode()


def _decompressed(packed: bytes) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        content = decompressor.decompress(packed, _MAX_VALUE_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not decompressor.eof:
        raise ValueError("is not a compressed value")
    return content
