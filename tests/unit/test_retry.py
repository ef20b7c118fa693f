"""Which lost races are repeated."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from usage_worker.errors import ConcurrencyError, LockHeldError, RecoveryConflictError
from usage_worker.maintenance.retry import retry
from usage_worker.store import connection
from usage_worker.store.connection import Store


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


def test_lock_is_waited_for_until_the_timeout() -> None:
    tried = []

    def step() -> int:
        """Meet a lock nineteen times, then lose a race, which is no matter of the lock."""
        tried.append(1)
        if len(tried) < 20:
            raise LockHeldError("held")
        if len(tried) == 20:
            raise ConcurrencyError("lost")
        return len(tried)

    assert retry(step, 60.0, attempts=4, pause=lambda _attempt: 0.0) == 21
    tried.clear()
    with pytest.raises(LockHeldError):
        retry(step, attempts=4, pause=lambda _attempt: 0.0)
    assert len(tried) == 4


def test_store_repeats_a_cancelled_query_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "READ_PAUSE", 0.0)
    monkeypatch.setattr(Store, "connection", lambda _store: nullcontext())
    tried = []

    def fetch(_connection: Any) -> None:
        tried.append(1)
        raise RecoveryConflictError("cancelled")

    with Store("postgresql://localhost/none", is_replica=True) as store, pytest.raises(RecoveryConflictError):
        retry(lambda: store.read(fetch))
    assert len(tried) == 3
