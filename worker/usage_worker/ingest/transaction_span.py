"""The span of a batch's transaction."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from usage_worker.tracing import in_span, link_senders

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.store.intake import Intake
    from usage_worker.tracing import Span


@contextmanager
def transaction_span(entries: Sequence[DecodedEntry]) -> Iterator[Span | None]:
    """Make a span of the block, with a link to the span that sent each entry."""
    attributes: dict[str, str | int] = {"db.system.name": "postgresql", "messaging.batch.message_count": len(entries)}
    with in_span("usage.transaction", "INTERNAL", attributes) as span:
        link_senders(span, (entry.raw.traceparent for entry in entries))
        yield span


def intake_attributes(intake: Intake) -> dict[str, int]:
    """Return the attributes with what a transaction counted."""
    return {
        "usage.events": intake.accepted,
        "usage.applied": intake.applied,
        "usage.duplicate": intake.duplicate,
        "usage.quarantined": intake.quarantined,
    }
