"""The namespace of ids that the database keeps: a worker with another one does not start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.monitoring.check import fail
from usage_worker.monitoring.inspection import POSTGRESQL, Section
from usage_worker.store.external_ids import kept_namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection


def _namespace(inspection: Inspection) -> Iterator[Check]:
    if not inspection.figures.has_schema("4.3.0"):
        return  # it has no table of it, and the check of the schema says so
    own = inspection.settings.id_namespace
    with inspection.store.connection() as connection:
        kept = kept_namespace(connection)
    if kept not in (None, own):
        reason = (
            f"USAGE_ID_NAMESPACE is {own} here, and the database has ids of {kept}; no worker starts with another one"
        )
        yield fail("kept_namespace", reason, f"set USAGE_ID_NAMESPACE={kept} for all processes and restart them")


NAMESPACE = Section(("kept_namespace",), _namespace, needs=(POSTGRESQL,))
