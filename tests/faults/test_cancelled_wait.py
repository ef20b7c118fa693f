"""Somebody cancels the wait for a synchronous standby: COMMIT succeeds, but a failover would undo it."""

from __future__ import annotations

import threading
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import psycopg

from tests.faults.harness import Harness
from tests.helpers import eventually
from tests.standby import SETTINGS, copy_of, promote, require_standby
from usage_worker.errors import StoreUnavailableError
from usage_worker.local import EmbeddedPostgres
from usage_worker.migrate import Runner
from usage_worker.service.resources import Resources

if TYPE_CHECKING:
    from pathlib import Path

    from usage_worker.local import EmbeddedValkey

CANCEL = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
EVENTS = 200


def test_unconfirmed_commit_is_not_acknowledged(server_folder: Path, durable_valkey: EmbeddedValkey) -> None:
    folder = server_folder / "cancelled-wait"
    with EmbeddedPostgres(folder / "primary", SETTINGS) as primary:
        database = primary.ensure_database("usage")
        Runner(database).up()
        with closing(Harness(database, durable_valkey.url(2), stream_shards=1)) as harness:
            harness.redis.flushdb()
            standby = copy_of(primary, folder / "standby")
            require_standby(primary)
            harness.xadd(harness.traffic(EVENTS), 0)
            failures: list[StoreUnavailableError] = []
            flushing = threading.Thread(target=flush, args=(harness.resources, failures))
            flushing.start()
            with psycopg.connect(primary.url(), autocommit=True) as connection:
                eventually(lambda: connection.execute(CANCEL).rowcount, 30)
            flushing.join(30)
            assert "the wait for the synchronous standby was cancelled" in str(failures[0])
            assert harness.intake.applied == EVENTS
            assert harness.resources.stream.backlog(0).entries == 1
            primary.kill()
            with standby:
                promote(standby)
                settings = harness.resources.settings.model_copy(update={"database_url": standby.url("usage")})
                with Resources(settings) as after:
                    eventually(partial(is_empty_after_flush, after), 30)
                    assert after.store.intake_totals().applied == EVENTS


def flush(resources: Resources, failures: list[StoreUnavailableError]) -> None:
    try:
        resources.flusher.flush(0)
    except StoreUnavailableError as error:
        failures.append(error)


def is_empty_after_flush(resources: Resources) -> bool:
    resources.flusher.flush(0)
    return resources.stream.backlog(0).entries == 0
