"""An application's own ids beside the UUIDs in the output of a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.cli.output import print_lines

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    ExternalIdsByKind = Mapping[str, Mapping[UUID, str]]
    """The ids by kind and UUID."""


def print_external_ids(named: ExternalIdsByKind) -> None:
    """Print a line for each UUID that was made from an id."""
    print_lines((f"{kind} {uuid}", external_id) for kind, ids in named.items() for uuid, external_id in ids.items())


def external_ids_as_json(named: ExternalIdsByKind) -> dict[str, dict[str, str]]:
    """Return the ids with texts as keys."""
    return {kind: {str(uuid): external_id for uuid, external_id in ids.items()} for kind, ids in named.items()}
