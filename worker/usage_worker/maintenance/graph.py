"""The task `analytics.graph`: keep the counts of agents that the same users use, and publish relationships of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from usage_worker.logs import get_logger
from usage_worker.maintenance.retry import retry
from usage_worker.maintenance.task_run import run_task
from usage_worker.store.graph import publish_relationships, recount_pairs, update_pair_counts

if TYPE_CHECKING:
    from usage_worker.settings import Settings
    from usage_worker.store.connection import Store

GRAPH = "analytics.graph"

log = get_logger("graph")


@dataclass(slots=True)
class GraphReport:
    """What a run did; filled as it goes on."""

    changed_users: int = 0
    """Number of users whose agents had changed since the last run."""
    changed_pairs: int = 0
    """Number of pairs of agents whose count changed."""
    left_out_users: int = 0
    """Number of users who are left out since they have more than 100 agents."""
    different: int = 0
    """Number of counts that a recount found wrong, and repaired."""
    published: bool = False
    """Whether relationships were published; they are once a UTC day, and when the minimum of users has changed."""
    users: int = 0
    """Number of users of whom relationships were published."""
    used_with: int = 0
    """Number of relationships published between agents that the same users use."""
    copies: int = 0
    """Number of relationships published of a copy to its original."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def update_graph(store: Store, min_users: int, report: GraphReport | None = None) -> GraphReport:
    """Take over what has changed into the counts, recount them, and publish relationships once a day.

    Each of the three is one transaction: an interruption leaves counts that equal the lists they were made from.

    Args:
        store: the database.
        min_users: least number of common users of a relationship.
        report: the report to fill.

    Raises:
        BusyError: another process is at work on the graph.
    """
    report = report or GraphReport()
    update = retry(partial(update_pair_counts, store, GRAPH))
    report.changed_users, report.changed_pairs, report.left_out_users = update
    report.different = retry(partial(recount_pairs, store, GRAPH))
    if report.different:
        log.error("counts of pairs were wrong and are repaired", different=report.different)
    if published := retry(partial(publish_relationships, store, GRAPH, min_users)):
        report.published = True
        report.users, report.used_with, report.copies = published
    return report


def run_graph(store: Store, settings: Settings) -> dict[str, Any]:
    """Count which agents the same users use, and publish relationships once a day."""
    report = GraphReport()
    return run_task(store, GRAPH, partial(update_graph, store, settings.graph_min_users, report), report)
