"""The queries of the store."""

from usage_worker.events import columns
from usage_worker.queries import Queries
from usage_worker.store.counters import COLUMNS

_LEDGER = {
    "corrected": [*columns.CORRECTABLE, "cost_source"],
    "ledger": [*columns.NAMES, "cost_source"],
    "ledger_types": [*(f"{column.name} {column.sql_type}" for column in columns.COLUMNS), "cost_source text"],
}

query = Queries("usage_worker.store", {**COLUMNS, **_LEDGER})
