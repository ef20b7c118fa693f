"""What a server is, is asked again where another one may have taken its place."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from usage_worker.errors import StreamUnavailableError, UnusableServerError
from usage_worker.queue.connection import RedisConnection

GOOD = {"redis_version": "7.2.0", "aof_enabled": 1, "maxmemory_policy": "noeviction"}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what INFO answers, one time after the other."""
    answers: list[dict[str, Any]] = []
    monkeypatch.setattr(redis.Redis, "info", lambda _: answers.pop(0))
    return answers


@pytest.mark.parametrize("error", [RedisConnectionError("lost"), RedisTimeoutError("late"), ReadOnlyError("demoted")])
def test_server_after_a_failover_is_looked_at(error: RedisError, answers: list[dict[str, Any]]) -> None:
    warnings: list[str] = []
    connection = RedisConnection("redis://", lambda concern: warnings.append(concern.name))
    answers += [GOOD, *[GOOD | {"maxmemory_policy": "allkeys-lru"}] * 2, GOOD | {"redis_version": "6.2.0"}]
    use(connection)
    use(connection)
    assert len(answers) == 3
    for _ in range(2):
        fail(connection, error)
        use(connection)
        assert warnings == ["eviction"]  # once
    fail(connection, error)
    with pytest.raises(UnusableServerError, match=r"6\.2\.0"):
        use(connection)


def test_refused_command_needs_no_second_look(answers: list[dict[str, Any]]) -> None:
    connection = RedisConnection("redis://")
    answers += [GOOD]
    use(connection)
    fail(connection, ResponseError("no"))
    use(connection)


def use(connection: RedisConnection) -> None:
    with connection.server(""):
        pass


def fail(connection: RedisConnection, error: RedisError) -> None:
    with pytest.raises(StreamUnavailableError), connection.server(""):
        raise error
