"""The task `analytics.quality`: how well the users of each agent fare, which a search weighs a little."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from usage_worker.maintenance.retry import retry
from usage_worker.maintenance.task_run import run_task
from usage_worker.store.search import refresh_quality

if TYPE_CHECKING:
    from usage_worker.settings import Settings
    from usage_worker.store.connection import Store

QUALITY = "analytics.quality"


@dataclass(frozen=True, slots=True)
class QualityReport:
    """What a run did."""

    agents: int | None
    """Number of agents with a quality; None if it was computed earlier on the same UTC day."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_quality(store: Store, _settings: Settings) -> dict[str, Any]:
    """Compute the quality of agents, which a search weighs a little, once a UTC day."""
    return run_task(store, QUALITY, partial(_refresh, store))


def _refresh(store: Store) -> QualityReport:
    return QualityReport(retry(partial(refresh_quality, store, QUALITY)))
