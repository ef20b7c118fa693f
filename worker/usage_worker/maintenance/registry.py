"""The registry of periodic tasks; a new one is a module, a line here, a setting `schedule_…`, its SQL and its docs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from usage_worker.maintenance.analytics import REFRESH, run_refresh
from usage_worker.maintenance.anomalies import ANOMALIES, run_find_anomalies
from usage_worker.maintenance.embeddings import EMBED, run_embed
from usage_worker.maintenance.graph import GRAPH, run_graph
from usage_worker.maintenance.hours import HOURS, run_hours
from usage_worker.maintenance.partitions import MANAGE_PARTITIONS, run_manage_partitions
from usage_worker.maintenance.pruning import PRUNE, run_prune
from usage_worker.maintenance.purge import PURGE, run_purge
from usage_worker.maintenance.quality import QUALITY, run_quality
from usage_worker.maintenance.reconcile import RECONCILE, run_reconcile

if TYPE_CHECKING:
    from collections.abc import Callable

    from usage_worker.settings import Settings
    from usage_worker.store.connection import Store


class PeriodicTask(NamedTuple):
    """A task that beat sends: its name in Celery, the label of its setting `schedule_<label>`, and its function.

    Where it `needs` a setting, it is sent only if that is set. `usage-worker run` has it under the name `runs_with`, or
    under its label. `budget` is the setting of the seconds that a run may take.
    """

    name: str
    label: str
    run: Callable[[Store, Settings], dict[str, Any]]
    needs: str = ""
    runs_with: str = ""
    budget: str = ""

    @property
    def variable(self) -> str:
        """The environment variable of its schedule."""
        return f"USAGE_SCHEDULE_{self.label.upper()}"

    @property
    def command(self) -> str:
        """Its name in `usage-worker run`."""
        return self.runs_with or self.label.replace("_", "-")

    def schedule(self, settings: Settings) -> str:
        """Return its schedule: seconds, a crontab or "off"."""
        if self.needs and not getattr(settings, self.needs):
            return "off"
        text: str = getattr(settings, f"schedule_{self.label}")
        return text


PERIODIC_TASKS = (
    PeriodicTask(PURGE, "purge", run_purge, budget="purge_budget"),
    PeriodicTask(MANAGE_PARTITIONS, "partitions", run_manage_partitions),
    PeriodicTask(REFRESH, "analytics", run_refresh, runs_with="refresh"),
    PeriodicTask(HOURS, "hours", run_hours, runs_with="refresh"),
    PeriodicTask(GRAPH, "graph", run_graph),
    PeriodicTask(ANOMALIES, "anomalies", run_find_anomalies),
    PeriodicTask(QUALITY, "quality", run_quality),
    PeriodicTask(RECONCILE, "reconcile", run_reconcile, budget="reconcile_budget"),
    PeriodicTask(PRUNE, "dead_letters", run_prune),
    PeriodicTask(EMBED, "embed", run_embed, needs="embedder"),
)
