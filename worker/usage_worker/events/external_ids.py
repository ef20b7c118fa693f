"""Ids of an application's own: whole numbers and texts, which become UUIDs in the namespace of the installation.

A UUID in any notation stays itself. The UUID of anything else is the UUIDv5 (RFC 9562, section 5.5) of `kind:text`, so
that user 42 and agent 42 differ, and 42 and "42" are one. An entry carries the originals of its ids beside the events.
"""

from __future__ import annotations

import os
import re
from decimal import Decimal
from functools import cache, lru_cache
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError, core_schema, to_json
from uuid_utils.compat import uuid5

from usage_worker.errors import SettingsError
from usage_worker.events.columns import NAMES
from usage_worker.printable import is_unicode
from usage_worker.settings import DEFAULT_ID_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import GetCoreSchemaHandler

    from usage_worker.events.columns import Row

Kind = Literal["user", "agent", "conversation"]
KINDS: Final[tuple[Kind, ...]] = ("user", "agent", "conversation")
ID_PLACES: Final = tuple((kind, NAMES.index(f"{kind}_id")) for kind in KINDS)
"""Each kind with its place in a row."""
MAX_EXTERNAL_ID: Final = 255
"""Characters of an original."""
# In a process: making the UUID of a text takes 2 µs, finding a known one 0.1 µs. 6 MB of short ones, 28 MB at most.
KNOWN_IDS: Final = 2**14
# The shortest text that may be a UUID.
_UUID_DIGITS = 32
_LARGE = 10**MAX_EXTERNAL_ID
_NO_ID = f"must be a UUID, a whole number, or a text of 1 to {MAX_EXTERNAL_ID} characters without U+0000"
_UUID: TypeAdapter[UUID] = TypeAdapter(UUID)
_UUID_IN_TEXT = re.compile(r"[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE)


class ExternalId(NamedTuple):
    """An id of an application's own: what it names, its UUID, and the original, or an empty text if it is a UUID."""

    kind: str
    id: UUID
    external_id: str


class ExternalIds:
    """The ids of one namespace; those that are used again cost a look-up."""

    def __init__(self, namespace: UUID) -> None:
        self.namespace = namespace
        self.of_text = lru_cache(KNOWN_IDS)(self._of_text)

    def of(self, kind: Kind, value: object) -> ExternalId:
        """Return an id in any notation.

        Raises:
            ValueError: the value is not a valid id.
        """
        if isinstance(value, UUID | bytes):
            return ExternalId(kind, _UUID.validate_python(value), "")
        return self.of_text(kind, _text(value))

    def _of_text(self, kind: Kind, text: str) -> ExternalId:
        if not 0 < len(text) <= MAX_EXTERNAL_ID or "\x00" in text or not is_unicode(text):
            raise ValueError(_NO_ID)
        if uuid := parse_uuid(text):
            return ExternalId(kind, uuid, "")
        return ExternalId(kind, uuid5(self.namespace, f"{kind}:{text}"), text)


class IdReader:
    """Reads the ids of one event as `AnyId`, and keeps those that were made; pydantic's context of a validation."""

    def __init__(self, ids: ExternalIds) -> None:
        self._ids = ids
        self.made: list[ExternalId] = []

    def read(self, kind: Kind, value: object) -> UUID:
        """Return the UUID of an id.

        Raises:
            PydanticCustomError: the value is not a valid id.
        """
        try:
            external = self._ids.of(kind, value)
        except ValueError:
            raise PydanticCustomError("external_id", _NO_ID) from None
        if external.external_id:
            self.made.append(external)
        return external.id


class AnyId(NamedTuple):
    """An annotation: accept a UUID; with an `IdReader` as context also any id of this kind."""

    kind: Kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Return the union of the UUID and of what is read."""
        clean = handler(source)
        read = core_schema.with_info_before_validator_function(self._read, clean)
        return core_schema.union_schema([clean, read], mode="left_to_right")

    def _read(self, value: Any, info: core_schema.ValidationInfo) -> Any:
        return info.context.read(self.kind, value) if isinstance(info.context, IdReader) else value


@cache
def external_ids(namespace: UUID) -> ExternalIds:
    """Return the ids of a namespace, which this process shares."""
    return ExternalIds(namespace)


def uuid_of(kind: Kind, value: UUID | str | int, namespace: UUID | None = None) -> UUID:
    """Return the UUID under which a user, an agent or a conversation is counted.

    Args:
        kind: "user", "agent" or "conversation".
        value: a UUID, which stays itself, or the application's own id: a whole number or a text.
        namespace: default `USAGE_ID_NAMESPACE`.

    Raises:
        ValueError: the kind or the value is none of these.
        SettingsError: USAGE_ID_NAMESPACE is not a UUID.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}")
    try:
        return external_ids(namespace or _configured()).of(kind, value).id
    except ValueError:
        raise ValueError(f"{kind}: {_NO_ID}") from None


def parse_uuid(text: str) -> UUID | None:
    """Return the UUID that a text is in one of its notations, None for an application's own id."""
    if len(text) < _UUID_DIGITS:
        return None
    try:
        return _UUID.validate_python(text)
    except ValidationError:
        return None


def uuids_in(text: str) -> set[UUID]:
    """Return every UUID that stands in a text, with or without its hyphens."""
    return set(map(UUID, _UUID_IN_TEXT.findall(text)))


def write_ids(made: Iterable[ExternalId]) -> bytes:
    """Return the field `ids` of an entry, which holds the originals; empty where there are none."""
    kinds: dict[str, dict[str, str]] = {}
    for kind, uuid, text in made:
        kinds.setdefault(kind, {})[uuid.hex] = text
    return to_json(kinds) if kinds else b""


def made_of(row: Row, originals: Any) -> list[ExternalId]:
    """Return the ids of an event that were made, by what the field `ids` of its entry holds, which may be anything."""
    numbers = {kind: row[place] for kind, place in ID_PLACES if row[place] is not None}
    found = {kind: _original(originals, kind, UUID(int=number)) for kind, number in numbers.items()}
    return [ExternalId(kind, UUID(int=numbers[kind]), text) for kind, text in found.items() if text]


def _original(originals: Any, kind: Kind, uuid: UUID) -> str:
    of_kind = originals.get(kind) if isinstance(originals, dict) else None
    text = of_kind.get(uuid.hex) if isinstance(of_kind, dict) else None
    return text if isinstance(text, str) else ""


def _text(value: object) -> str:
    """Return the text of a number or of a text, which may be of an application's own class."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Integral) and not isinstance(value, bool) and -_LARGE < int(value) < _LARGE:
        return str(int(value))
    # A number of more than 20 digits in JSON (`read_json`).
    if isinstance(value, Decimal) and value.as_tuple().exponent == 0:
        return str(value)
    raise ValueError(_NO_ID)


def _configured() -> UUID:
    """Read the one setting that `uuid_of` needs: reading all takes longer, and another may be wrong."""
    text = os.environ.get("USAGE_ID_NAMESPACE")
    uuid = DEFAULT_ID_NAMESPACE if text is None else parse_uuid(text)
    if uuid is None:
        raise SettingsError("USAGE_ID_NAMESPACE: is not a UUID")
    return uuid
