"""Settings: variables that nobody reads, values that contradict each other, an embedder that does not work."""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import TYPE_CHECKING

from usage_worker.embedders.embedder import unit_vectors
from usage_worker.embedders.registry import embedder_of
from usage_worker.environment import known_variables, variables_of_file
from usage_worker.errors import UsageError
from usage_worker.monitoring.check import ok, warn
from usage_worker.monitoring.inspection import Section
from usage_worker.printable import printable
from usage_worker.service.schedule import OFF
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection

PREFIX = "USAGE_"
# Read by docker-compose.yml and the set-up of the boards, which share `.env` and a shell with the processes.
DEPLOYMENT = {"USAGE_SECRETS", "USAGE_BOARDS_PASSWORD"}
# The oldest day on which `usage_events_ensure_recent_day` creates a partition for a role that only counts.
OLDEST_DAY_OF_INGEST = 366


def _variables(_: Inspection) -> Iterator[Check]:
    """Name the variables that begin as ours and are not; their values may be secret."""
    known = known_variables(Settings) | DEPLOYMENT
    given = {name for name in (*os.environ, *variables_of_file()) if name.startswith(PREFIX)}
    endings = {name.removeprefix(PREFIX) for name in known}
    for name in sorted(given - known):
        nearest = get_close_matches(name.removeprefix(PREFIX), endings, n=1)
        remedy = f"write {PREFIX}{nearest[0]}" if nearest else "unset it; docs/reference/settings.md lists all"
        yield warn("unknown_variables", f"nothing reads {printable(name)}", f"{printable(name)}: {remedy}")
    if given <= known:
        yield ok("unknown_variables", f"{PREFIX}… variables set: {len(given)}, all known")


def _contradictions(inspection: Inspection) -> Iterator[Check]:
    settings = inspection.settings
    given = "hourly_retention_days" in settings.model_fields_set
    if given and settings.hourly_retention_days < settings.retention_days:
        reason = f"USAGE_HOURLY_RETENTION_DAYS={settings.hourly_retention_days} has no effect below the ledger's"
        yield _contradiction(reason, f"raise it to USAGE_RETENTION_DAYS={settings.retention_days} or more")
    if settings.accept_days > OLDEST_DAY_OF_INGEST:
        reason = (
            f"USAGE_ACCEPT_DAYS={settings.accept_days}: a role that does not own the tables quarantines older events"
        )
        yield _contradiction(
            reason, f"lower it to {OLDEST_DAY_OF_INGEST}, or give the workers the owner's DATABASE_URL"
        )
    if settings.schedule_partitions.strip() == OFF:
        reason = "USAGE_SCHEDULE_PARTITIONS=off: USAGE_RETENTION_DAYS has no effect, and the ledger grows"
        yield _contradiction(reason, "unset it, or run the task from a schedule of your own")
    if settings.embedder and settings.schedule_embed.strip() == OFF:
        reason = "USAGE_EMBEDDER is set and USAGE_SCHEDULE_EMBED=off: new agents get no vectors"
        yield _contradiction(reason, "unset USAGE_SCHEDULE_EMBED")
    unused = [name for name in ("path", "url", "model", "key") if getattr(settings, f"embedder_{name}")]
    if unused and not settings.embedder:
        reason = f"{', '.join(f'USAGE_EMBEDDER_{name.upper()}' for name in unused)} without USAGE_EMBEDDER"
        yield _contradiction(f"{reason}: nothing is embedded", "set USAGE_EMBEDDER")


def _contradiction(reason: str, remedy: str) -> Check:
    return warn("contradictions", reason, remedy)


def _embedder(inspection: Inspection) -> Iterator[Check]:
    """Embed a word: an embedder loads its model, or reaches its service, with its first text."""
    settings = inspection.settings
    try:
        embedder = embedder_of(settings)
        if embedder is None:
            yield ok("embedder", "none is set: a search finds words and names")
            return
        unit_vectors(embedder, ["usage"])
    except UsageError as error:
        yield warn("embedder", settings.mask(str(error)), "correct what the reason names, or unset USAGE_EMBEDDER")
        return
    yield ok("embedder", f"{embedder.model} makes vectors of {embedder.dimension} numbers")


VARIABLES = Section(("unknown_variables",), _variables, optional=True)
CONTRADICTIONS = Section(("contradictions",), _contradictions)
EMBEDDER = Section(("embedder",), _embedder, optional=True)
