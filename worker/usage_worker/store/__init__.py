"""PostgreSQL: connections, and the statements of every use case, as named SQL files."""

from usage_worker.postgres import OUTAGES
from usage_worker.store.access import act_as_user
from usage_worker.store.analytics import refresh_analytics
from usage_worker.store.anomalies import Anomaly, JudgedAgent, Judging, UnusualHour, anomalies, judging, open_alerts
from usage_worker.store.batch import BatchTransaction, Missing, batch_transaction
from usage_worker.store.connection import ImpatientStore, Store
from usage_worker.store.dead_letters import prune_dead_letters
from usage_worker.store.external_ids import (
    delete_ownerless_ids,
    external_ids,
    external_ids_in,
    id_of,
    keep_external_ids,
    keep_namespace,
    kept_namespace,
)
from usage_worker.store.graph import (
    GraphState,
    RelatedAgent,
    agents_called,
    graph_state,
    publish_relationships,
    recount_pairs,
    related_agents,
    update_pair_counts,
)
from usage_worker.store.hours import HOURS, mark_different_hours, marked_days, refresh_hours, roll_up_day
from usage_worker.store.intake import Intake
from usage_worker.store.partitions import (
    DeletedRows,
    delete_old_entries,
    delete_old_keys,
    drop_partition,
    make_partition,
    partitions,
    today,
)
from usage_worker.store.past_days import open_past_days
from usage_worker.store.purge import (
    delete_expired_shares,
    delete_retired_days,
    purge_blocks,
    purge_chunk,
    purge_due,
)
from usage_worker.store.quarantine import DeadLetter
from usage_worker.store.reconcile import (
    FIRST_PAIR,
    PairDifference,
    PairKey,
    RepairStep,
    count_pairs,
    counter_differences,
    day_differences,
    intake_by_day,
    next_pairs,
    recorded_by_day,
    repair_counters,
    repair_day,
    retained_days,
)
from usage_worker.store.task_runs import TaskRun, last_runs, record_run, require_owner, sole_transaction

__all__ = [
    "FIRST_PAIR",
    "HOURS",
    "OUTAGES",
    "Anomaly",
    "BatchTransaction",
    "DeadLetter",
    "DeletedRows",
    "GraphState",
    "ImpatientStore",
    "Intake",
    "JudgedAgent",
    "Judging",
    "Missing",
    "PairDifference",
    "PairKey",
    "RelatedAgent",
    "RepairStep",
    "Store",
    "TaskRun",
    "UnusualHour",
    "act_as_user",
    "agents_called",
    "anomalies",
    "batch_transaction",
    "count_pairs",
    "counter_differences",
    "day_differences",
    "delete_expired_shares",
    "delete_old_entries",
    "delete_old_keys",
    "delete_ownerless_ids",
    "delete_retired_days",
    "drop_partition",
    "external_ids",
    "external_ids_in",
    "graph_state",
    "id_of",
    "intake_by_day",
    "judging",
    "keep_external_ids",
    "keep_namespace",
    "kept_namespace",
    "last_runs",
    "make_partition",
    "mark_different_hours",
    "marked_days",
    "next_pairs",
    "open_alerts",
    "open_past_days",
    "partitions",
    "prune_dead_letters",
    "publish_relationships",
    "purge_blocks",
    "purge_chunk",
    "purge_due",
    "record_run",
    "recorded_by_day",
    "recount_pairs",
    "refresh_analytics",
    "refresh_hours",
    "related_agents",
    "repair_counters",
    "repair_day",
    "require_owner",
    "retained_days",
    "roll_up_day",
    "sole_transaction",
    "today",
    "update_pair_counts",
]
