"""Support for tests: an independent oracle of the counters, and generated traffic.

For applications that test what they publish, and for this project's own tests, demo and benchmark. It imports the
standard library only, so that an application needs no PostgreSQL driver and no Celery for it.
"""

from usage_worker.testing.oracle import COUNTER_COLUMNS, ExpectedCounters, Oracle
from usage_worker.testing.workload import Mix, Population, generate_usage

__all__ = ["COUNTER_COLUMNS", "ExpectedCounters", "Mix", "Oracle", "Population", "generate_usage"]
