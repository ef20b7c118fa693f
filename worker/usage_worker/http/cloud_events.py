"""CloudEvents 1.0 as fields of our events.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md, and the HTTP binding for
attributes in headers (section 3.1).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from usage_worker.errors import EventRefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HEADER = b"ce-"
# A quoted-string of RFC 7230, and a character in it that a backslash escapes.
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_MAX_KEY = 255
# The attributes that are fields of ours.
_FIELDS = {"time": "occurred_at", "subject": "user_id"}


def fields_of(event: Any) -> Any:
    """Return the fields of a CloudEvent, unchecked: `data` has those that no attribute gives.

    `source` and `id` together are the identity, so that an id need be unique only in its source. Of `type` the last
    part counts, as in `com.example.usage`. Extensions are ignored.

    Raises:
        EventRefusedError: it is not a CloudEvent, or gives a field twice.
    """
    if not isinstance(event, dict):
        return event  # refused like any other
    given = {name: value for name, value in event.items() if value is not None}
    _check(given)
    fields = {
        "event_id": identity(given["source"], given["id"]),
        "type": given["type"].rpartition(".")[2],
        **{field: given[name] for name, field in _FIELDS.items() if name in given},
    }
    data = given.get("data", {})
    if not isinstance(data, dict):
        raise EventRefusedError("data: Input should be an object")
    if twice := sorted(fields.keys() & data.keys()):
        raise EventRefusedError(f"{twice[0]}: given by an attribute, so leave it out of data")
    return {**data, **fields}


def identity(source: str, identifier: str) -> str:
    """Return the idempotency key of a source and an id, hashed where it would be too long."""
    key = json.dumps([source, identifier], ensure_ascii=False)
    return key if len(key) <= _MAX_KEY else sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def is_in_headers(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Return whether headers have the attributes of a CloudEvent, whose body is the data alone."""
    return any(name == _HEADER + b"specversion" for name, _ in headers)


def in_headers(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the attributes of a CloudEvent in headers, whose names are in lower case.

    Raises:
        EventRefusedError: one is there twice, or is not UTF-8.
    """
    given = [(name.removeprefix(_HEADER).decode("latin-1"), raw) for name, raw in headers if name.startswith(_HEADER)]
    attributes = {}
    for name, count in Counter(name for name, _ in given).items():
        if count > 1:
            raise EventRefusedError(f"{_FIELDS.get(name, name)}: given twice, by two headers")
    for name, raw in given:
        try:
            attributes[name] = unquote_to_bytes(_unquoted(raw)).decode()
        except UnicodeDecodeError:
            raise EventRefusedError(f"{_FIELDS.get(name, name)}: the header is not UTF-8") from None
    return attributes


def _unquoted(raw: bytes) -> bytes:
    quoted = _QUOTED.fullmatch(raw)
    return _ESCAPED.sub(rb"\1", quoted[1]) if quoted else raw


def _check(given: Mapping[str, Any]) -> None:
    if given.get("specversion") != "1.0":
        raise EventRefusedError("specversion: must be 1.0")
    for name in ("id", "source", "type"):
        if not isinstance(given.get(name), str) or not given[name]:
            raise EventRefusedError(f"{name}: must be a text that is not empty")
    content = str(given.get("datacontenttype", "application/json")).partition(";")[0].strip().lower()
    if "data_base64" in given or not content.endswith(("/json", "+json")):
        raise EventRefusedError("data: must be JSON")
