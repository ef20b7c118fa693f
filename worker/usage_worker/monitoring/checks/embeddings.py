"""Vectors of agents: whether new and changed agents get theirs in time. Only where an embedder is set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from usage_worker.maintenance.embeddings import EMBED
from usage_worker.monitoring.check import warn
from usage_worker.monitoring.inspection import POSTGRESQL, Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection

# A hundred thousand agents take an embedder of 100 texts a second, half of the time, this long.
LONGEST_WAIT = timedelta(hours=1)
NAME = "embeddings"


def _embeddings(inspection: Inspection) -> Iterator[Check]:
    """Read the report of the last run: counting by ourselves would read all agents at each scrape."""
    run = inspection.last_runs.get(EMBED) if inspection.settings.embedder else None
    if run is None:
        return
    inspection.figures.embeddings = report = run.report
    if report.get("problem"):
        yield warn(NAME, str(report["problem"]), "correct what the reason names, then run `usage-worker run embed`")
    if report.get("failed"):
        reason = f"the texts of {report['failed']:,} agents cannot be embedded; each is tried again"
        yield warn(NAME, reason, "see the column error of agent_embedding_failures")
    since = report.get("pending_since")
    if since and datetime.now(UTC) - datetime.fromisoformat(since) > LONGEST_WAIT:
        reason = f"{report.get('pending', 0):,} agents have no vector of their present text, some since {since}"
        yield warn(NAME, reason, "run `usage-worker run embed`, or use an embedder that is faster")


EMBEDDINGS = Section((NAME,), _embeddings, needs=(POSTGRESQL,))
