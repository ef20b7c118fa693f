"""Support for tests: captured events, an independent oracle of the counters, and generated traffic.

For applications that test what they publish, and for this project's own tests, demo and benchmark. It needs the base
installation only: no PostgreSQL driver and no Celery.
"""

from usage_worker.testing.capture import capture
from usage_worker.testing.oracle import COUNTER_COLUMNS, ExpectedCounters, Oracle
from usage_worker.testing.workload import Mix, Population, generate_usage

__all__ = ["COUNTER_COLUMNS", "ExpectedCounters", "Mix", "Oracle", "Population", "capture", "generate_usage"]
