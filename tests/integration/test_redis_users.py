"""Users of Redis with few rights: the lines of docs/operations.md, and a publisher that may do nothing but XADD."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from tests.conftest import with_login
from tests.integration.commands import events
from tests.integration.test_publisher import events_in
from usage_worker.publisher import UsagePublisher
from usage_worker.publisher.sender import Sender

if TYPE_CHECKING:
    import pytest
    import redis

    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness


def test_documented_users_are_denied_nothing(
    harness: IngestHarness, cli: Cli, redis_publisher_url: str, redis_worker_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    harness.redis.acl_log_reset()
    with UsagePublisher(redis_publisher_url, linger=0) as publisher:
        for user in harness.users:
            pair = {"user_id": user, "agent_id": harness.agents[0]}
            event = pair | {"event_id": uuid4(), "occurred_at": datetime.now(UTC)}
            assert publisher.add(event)
            harness.oracle.add(event)
        assert publisher.flush()
    harness.flush()
    harness.check()
    cli.env["REDIS_URL"] = redis_worker_url
    status = json.loads(cli.run("status", "--json").stdout)
    assert status["totals"]["accepted"] == len(harness.users)
    assert (harness.redis.acl_log(), caplog.records) == ([], [])


def test_xadd_alone_is_enough_for_publisher(
    redis_url: str, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture, cli: Cli
) -> None:
    user, password = f"xadd-{uuid4().hex}", uuid4().hex
    redis_client.execute_command("ACL", "SETUSER", user, "on", f">{password}", "~usage:*", "+xadd")  # type: ignore[no-untyped-call]
    try:
        with UsagePublisher(with_login(redis_url, user, password), linger=0) as publisher:
            for _ in range(3):
                assert publisher.track(uuid4(), uuid4())
                assert publisher.flush()
                assert isinstance(publisher._sender, Sender)
                publisher._sender._packs._watch._checked.clear()  # as if a second had passed
        cli.env["REDIS_URL"] = with_login(redis_url, user, password)
        assert cli.run("publish", "-", stdin=events(2).encode()).returncode == 0
    finally:
        redis_client.acl_deluser(user)
    assert events_in(redis_client) == 5
    assert [record.getMessage() for record in caplog.records] == [
        "this user may not ask Redis for INFO: events are sent without a look at its memory"
    ]
