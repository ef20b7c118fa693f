"""`status` is unhealthy while entries wait and nothing of their shard is committed, and names the cause."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from tests.helpers import eventually
from tests.integration.commands import Cli, events, figures
from tests.integration.database import run
from tests.integration.test_metrics import figures as metrics
from usage_worker.errors import StoreUnavailableError, UsageError
from usage_worker.local.supervisor import Supervisor
from usage_worker.monitoring.stalls import stalls
from usage_worker.queue.failure import FlushFailures
from usage_worker.queue.heartbeat import Heartbeat
from usage_worker.queue.stream import GROUP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis

    from tests.integration.conftest import IngestHarness
    from usage_worker.monitoring.stalls import Stall
    from usage_worker.service.resources import Resources

READ_ONLY = "default_transaction_read_only"
MINUTE_MS = 60_000
# Several lines, with an escape sequence, longer than a screen; what follows the first line may quote rows.
REFUSE = r"""
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION USING ERRCODE = '%code', MESSAGE = E'not \x1b[31mnow\t' || repeat('x', 9000) || E'\nsecret';
    END $$
"""


@pytest.fixture
def cli(tmp_path: Path, database: str, redis_url: str) -> Cli:
    return Cli(tmp_path, DATABASE_URL=database, REDIS_URL=redis_url, USAGE_UNKNOWN="create", USAGE_RECLAIM_IDLE="0.5")


def add_old(client: redis.Redis, shard: int = 0, minutes: int = 10) -> None:
    """Add an entry whose ID is `minutes` old by the clock of Redis."""
    reply: Any = client.time()
    entry: Any = {"v": "1", "n": "1", "events": f"[{events(1).strip()}]"}
    client.xadd(f"usage:events:{{{shard}}}", entry, id=f"{reply[0] * 1000 - minutes * MINUTE_MS}-0")


@contextmanager
def read_only(database: str) -> Iterator[Callable[[], object]]:
    """Make new sessions of the database read-only, until the yielded function is called."""
    with psycopg.connect(database, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET {} = on").format(name, sql.Identifier(READ_ONLY)))
        yield partial(connection.execute, sql.SQL("ALTER DATABASE {} RESET {}").format(name, sql.Identifier(READ_ONLY)))


def found(resources: Resources) -> list[Stall]:
    backlog = {shard: resources.stream.backlog(shard) for shard in range(2)}
    return stalls(resources.stream, resources.store, backlog, 1.0)


def counted(resources: Resources) -> int:
    """Return the number of events that a flush counts, 0 if its session began in the outage."""
    with suppress(StoreUnavailableError):
        return resources.flusher.flush(0).intake.applied
    return 0


def collected_status(cli: Cli) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(cli.run("status", "--json").stdout)
    return seen


def test_read_only_database_is_unhealthy_until_writable(
    cli: Cli, harness: IngestHarness, database: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAGE_UNKNOWN", "create")
    add_old(harness.redis)
    with (
        read_only(database) as reset,
        Supervisor(database, redis_url, concurrency=1, flower_port=None, log_dir=tmp_path),
    ):
        Heartbeat(harness.resources.stream.connection).beat()  # beat itself would do so in ten seconds
        eventually(lambda: harness.redis.exists("usage:failure:{0}"), 30)
        seen = collected_status(cli)
        assert (seen["worker_alive"], seen["beat_alive"], seen["partitions_healthy"]) == (True, True, True)
        assert not seen["healthy"]
        (stall,) = seen["stalled"]
        assert (stall["shard"], stall["committed_seconds"]) == (0, None)
        assert 600 <= stall["oldest_seconds"] < 700
        assert "read-only transaction" in stall["error"]
        assert 0 <= stall["error_seconds"] < 60
        done = cli.run("status")
        assert done.returncode == 1
        table = dict(line.split("\t") for line in done.stdout.splitlines())
        assert "nothing was ever committed; " in table["shard 0 is stalled"]
        assert "read-only transaction" in table["shard 0 is stalled"]
        assert metrics(cli.run("metrics").stdout)["usage_healthy", ""] == 0
        reset()
        eventually(lambda: harness.resources.store.intake_totals().applied == 1, 30)
        seen = collected_status(cli)
        assert (seen["healthy"], seen["stalled"]) == (True, [])
        assert FlushFailures(harness.resources.stream.connection).last(0) is None


def test_commit_of_drain_ends_stall(cli: Cli, harness: IngestHarness, database: str) -> None:
    assert found(harness.resources) == []
    add_old(harness.redis, minutes=10)
    (stall,) = found(harness.resources)
    assert (stall.shard, stall.committed_seconds, stall.error) == (0, None, None)
    assert cli.drained() == figures(applied=1)
    add_old(harness.redis, minutes=9)  # a backlog of which something was just committed
    seen = collected_status(cli)
    assert seen["backlog"]["0"]["oldest_seconds"] > 500
    assert seen["stalled"] == []
    add_old(harness.redis, shard=1, minutes=8)  # a backlog of which nothing was committed
    assert [stall.shard for stall in found(harness.resources)] == [1]
    run(database, "UPDATE public.usage_intake SET booked_at = now() - interval '31 s'")
    before, never = found(harness.resources)
    assert (before.shard, never.shard, never.committed_seconds) == (0, 1, None)
    assert 31 <= (before.committed_seconds or 0) < 60
    done = cli.run("status")
    assert done.returncode == 1
    assert re.search(r"nothing was committed for \d+ s", done.stdout)
    assert "no flush failed lately" in done.stdout


def test_long_flush_interval_is_no_stall(harness: IngestHarness) -> None:
    add_old(harness.redis)
    backlog = {0: harness.resources.stream.backlog(0)}
    resources = harness.resources
    assert stalls(resources.stream, resources.store, backlog, 1.0)
    assert stalls(resources.stream, resources.store, backlog, 3600.0) == []


@pytest.mark.parametrize("code", ["57P03", "0A000"])  # one that we translate, one that we do not
def test_recorded_error_is_printable_and_cleared_by_commit(
    make_resources: Callable[..., Resources], redis_client: redis.Redis, database: str, code: str
) -> None:
    resources = make_resources(DATABASE_URL=database, reclaim_idle=0.01, unknown="create")
    run(database, REFUSE.replace("%code", code))
    run(database, "CREATE TRIGGER refuse BEFORE INSERT ON usage_intake FOR EACH ROW EXECUTE FUNCTION refuse()")
    add_old(redis_client)
    with pytest.raises((UsageError, psycopg.Error)):
        resources.flusher.flush(0)
    (stall,) = found(resources)
    assert stall.error
    assert r"not \x1b[31mnow\t" in stall.error
    assert len(stall.error) <= 200
    assert "secret" not in stall.error
    run(database, "DROP TRIGGER refuse ON usage_intake")
    assert eventually(lambda: counted(resources)) == 1
    run(database, "UPDATE usage_intake SET booked_at = now() - interval '31 s'")
    add_old(redis_client, minutes=9)
    (stall,) = found(resources)
    assert stall.error is None


def test_full_redis_records_no_error_and_blocks_nothing(
    make_resources: Callable[..., Resources], redis_client: redis.Redis, database: str
) -> None:
    add_old(redis_client)
    redis_client.xgroup_create("usage:events:{0}", GROUP, id="0")
    redis_client.config_set("maxmemory", 1)
    try:
        with read_only(database) as reset:
            resources = make_resources(DATABASE_URL=database, reclaim_idle=0.01, unknown="create")
            with pytest.raises(StoreUnavailableError, match="read-only"):
                resources.flusher.flush(0)
            (stall,) = found(resources)
            assert stall.error is None
            reset()
        assert eventually(lambda: counted(resources)) == 1
    finally:
        redis_client.config_set("maxmemory", 0)


def test_entry_with_future_id_hides_no_stall(harness: IngestHarness) -> None:
    entry: Any = {"v": "1", "n": "1", "events": f"[{events(1).strip()}]"}
    harness.redis.xadd("usage:events:{0}", entry, id="253402300799000-0")
    stall = found(harness.resources)
    assert [(it.shard, it.committed_seconds) for it in stall] == [(0, None)]
    harness.flush()
    assert found(harness.resources) == []
