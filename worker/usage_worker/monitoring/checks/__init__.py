"""The sections of the status: each asks one thing, and stands alone."""

from usage_worker.monitoring.checks.anomalies import ANOMALIES_SECTION
from usage_worker.monitoring.checks.beat import BEAT
from usage_worker.monitoring.checks.broker import BROKER_SECTION
from usage_worker.monitoring.checks.clocks import CLOCKS
from usage_worker.monitoring.checks.embeddings import EMBEDDINGS
from usage_worker.monitoring.checks.forgotten import FORGOTTEN
from usage_worker.monitoring.checks.locks import LOCKS
from usage_worker.monitoring.checks.namespace import NAMESPACE
from usage_worker.monitoring.checks.postgresql import POSTGRESQL_SECTION, SCHEMA, SERVERS
from usage_worker.monitoring.checks.processes import PROCESSES
from usage_worker.monitoring.checks.quarantine import INTAKE, QUARANTINED
from usage_worker.monitoring.checks.reconcile import RECONCILE_SECTION
from usage_worker.monitoring.checks.redis import REDIS_SECTION, SERVER
from usage_worker.monitoring.checks.shards import SHARDS
from usage_worker.monitoring.checks.streams import STREAMS
from usage_worker.monitoring.checks.unread import UNREAD
from usage_worker.monitoring.checks.upkeep import PARTITIONS, PERIODIC

# In the order in which they ask: a later one may use what an earlier one has found.
SECTIONS = (
    REDIS_SECTION,
    SERVER,
    BROKER_SECTION,
    PROCESSES,
    SHARDS,
    BEAT,
    STREAMS,
    UNREAD,
    POSTGRESQL_SECTION,
    SERVERS,
    SCHEMA,
    NAMESPACE,
    FORGOTTEN,
    LOCKS,
    INTAKE,
    QUARANTINED,
    PARTITIONS,
    PERIODIC,
    RECONCILE_SECTION,
    ANOMALIES_SECTION,
    EMBEDDINGS,
    CLOCKS,
)

__all__ = ["SECTIONS"]
