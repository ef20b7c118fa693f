"""The order of the test files."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

LONGEST = {
    *("test_bench", "test_database_faults", "test_health", "test_redis_faults", "test_secrets", "test_up"),
    *("test_contention", "test_deaths", "test_random_faults", "test_worker_death"),
    *(
        "test_forget",
        "test_installed",
        "test_matrix",
        "test_migrate_adopt",
        "test_migrate_failures",
        "test_migrate_kept",
    ),
    *("test_migrate_obstacles", "test_poison_celery", "test_reconcile", "test_schedule", "test_worker_turns"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: processes that share the rest end together."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)
