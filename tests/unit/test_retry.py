"""Which lost races are repeated."""

from __future__ import annotations

import pytest

from usage_worker.errors import ConcurrencyError, RecoveryConflictError
from usage_worker.maintenance.retry import retry


@pytest.mark.parametrize(("error", "attempts"), [(ConcurrencyError, 4), (RecoveryConflictError, 1)])
def test_query_that_a_replica_cancels_is_repeated_by_the_store_alone(
    error: type[ConcurrencyError], attempts: int
) -> None:
    tried = []

    def step() -> None:
        tried.append(error)
        raise error("lost")

    with pytest.raises(error):
        retry(step, attempts=4, pause=lambda _attempt: 0.0)
    assert len(tried) == attempts
