"""A standby is promoted without the last commits of the primary: what is lost without synchronous replication."""

from __future__ import annotations

import threading
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.harness import Harness
from tests.helpers import eventually
from tests.standby import SETTINGS, copy_of, promote, require_standby
from usage_worker.errors import UsageError
from usage_worker.local import EmbeddedPostgres
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.migrate import Runner
from usage_worker.service.resources import Resources

if TYPE_CHECKING:
    from pathlib import Path

    from usage_worker.local import EmbeddedValkey


@pytest.mark.parametrize("is_synchronous", [False, True])
def test_promotion_without_last_commits(
    server_folder: Path, durable_valkey: EmbeddedValkey, is_synchronous: bool
) -> None:
    folder = server_folder / f"standby-{is_synchronous}"
    with EmbeddedPostgres(folder / "primary", SETTINGS) as primary:
        database = primary.ensure_database("usage")
        Runner(database).up()
        with closing(Harness(database, durable_valkey.url(2))) as harness:
            harness.redis.flushdb()
            harness.publish(harness.traffic(300))
            harness.drain()
            standby = copy_of(primary, folder / "standby")
            if is_synchronous:
                require_standby(primary)
            harness.publish(harness.traffic(200, seed=2))
            counting = threading.Thread(target=drain, args=(harness,))
            counting.start()
            if is_synchronous:
                waiting = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
                with psycopg.connect(primary.url(), autocommit=True) as connection:
                    eventually(lambda: connection.execute(waiting).rowcount, 30)
            else:
                counting.join(30)
            primary.kill()
            counting.join(30)
            with standby:
                promote(standby)
                with Resources(
                    harness.resources.settings.model_copy(update={"database_url": standby.url("usage")})
                ) as after:
                    for shard in range(after.stream.shards):
                        eventually(partial(is_empty_after_flush, after, shard), 30)
                    assert reconcile(after.store, after.settings).differences == []
                    counted = after.store.intake_totals().accepted
    assert counted == (500 if is_synchronous else 300)


def is_empty_after_flush(resources: Resources, shard: int) -> bool:
    resources.flusher.flush(shard)
    return resources.stream.backlog(shard).entries == 0


def drain(harness: Harness) -> None:
    with suppress(UsageError):
        harness.drain()
