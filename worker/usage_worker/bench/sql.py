"""The named queries of the benchmark."""

from usage_worker.queries import Queries

query = Queries("usage_worker.bench")
