"""Somebody cancels the wait for a synchronous standby: COMMIT succeeds, but a failover would undo it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING

import psycopg

from tests.erasure import FORGET_KEY
from tests.faults.harness import Harness
from tests.helpers import eventually
from tests.integration.commands import Cli
from tests.standby import SETTINGS, copy_of, promote, require_standby
from usage_worker.errors import StoreUnavailableError
from usage_worker.local import EmbeddedPostgres
from usage_worker.migrate import Runner
from usage_worker.service.resources import Resources

if TYPE_CHECKING:
    from pathlib import Path

    from usage_worker.local import EmbeddedValkey

CANCEL = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
WAITING = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
CANCELLED = "the wait for the synchronous standby was cancelled"
MESSAGES = "SELECT messages FROM public.usage_events WHERE event_id = %s"
EVENTS = 200


def test_unconfirmed_commit_is_not_acknowledged(server_folder: Path, durable_valkey: EmbeddedValkey) -> None:
    folder = server_folder / "cancelled-wait"
    with EmbeddedPostgres(folder / "primary", SETTINGS) as primary:
        database = primary.ensure_database("usage")
        Runner(database).up()
        with closing(Harness(database, durable_valkey.url(2), stream_shards=1)) as harness:
            harness.redis.flushdb()
            events = harness.traffic(EVENTS)
            # The first commit that waits is then that of the batch.
            for day in {event["occurred_at"].date() for event in events}:
                harness.resources.store.execute(f"SELECT public.usage_events_ensure_day('{day}')")
            standby = copy_of(primary, folder / "standby")
            require_standby(primary)
            harness.xadd(events, 0)
            failures: list[StoreUnavailableError] = []
            flushing = threading.Thread(target=flush, args=(harness.resources, failures))
            flushing.start()
            with psycopg.connect(primary.url(), autocommit=True) as connection:
                eventually(lambda: connection.execute(CANCEL).rowcount, 30)
            flushing.join(30)
            assert CANCELLED in str(failures[0])
            assert harness.intake.applied == EVENTS
            assert harness.resources.stream.backlog(0).entries == 1
            primary.kill()
            with standby:
                promote(standby)
                settings = harness.resources.settings.model_copy(update={"database_url": standby.url("usage")})
                with Resources(settings) as after:
                    eventually(partial(is_empty_after_flush, after), 30)
                    assert after.store.intake_totals().applied == EVENTS


def test_command_whose_commit_no_standby_has_fails(server_folder: Path, durable_valkey: EmbeddedValkey) -> None:
    """Repeated, it waits for the standby again, also where it finds nothing to do."""
    folder = server_folder / "cancelled-command"
    with ExitStack() as stack:
        primary = stack.enter_context(EmbeddedPostgres(folder / "primary", SETTINGS))
        database = primary.ensure_database("usage")
        Runner(database).up()
        harness = stack.enter_context(closing(Harness(database, durable_valkey.url(2), stream_shards=1)))
        harness.redis.flushdb()
        event, other = harness.traffic(2)
        harness.xadd([event, other], 0)
        harness.resources.flusher.flush(0)
        # By itself it would keep PostgreSQL from saying that nobody waited.
        harness.resources.store.execute("ALTER DATABASE usage SET client_min_messages = error")
        standby = copy_of(primary, folder / "standby")
        require_standby(primary)
        cli = Cli(folder, DATABASE_URL=database, REDIS_URL=harness.redis_url, USAGE_FORGET_KEY=FORGET_KEY)
        correct = partial(cli.run, "correct", str(event["event_id"]), "--set=messages=7", "--yes")
        forget = partial(cli.run, "forget", str(other["user_id"]), "--yes")
        pool = stack.enter_context(ThreadPoolExecutor())
        administrator = stack.enter_context(psycopg.connect(primary.url(), autocommit=True))
        for command in (correct, forget):
            done = pool.submit(command)
            eventually(lambda: administrator.execute(CANCEL).rowcount, 30)
            assert done.result(30).returncode == 1
            assert CANCELLED in done.result().stderr
        done = pool.submit(correct)
        eventually(lambda: administrator.execute(WAITING).rowcount, 30)
        stack.enter_context(standby)
        assert "nothing to correct" in done.result(30).stdout
        primary.kill()
        promote(standby)
        with psycopg.connect(standby.url("usage")) as connection:
            assert connection.execute(MESSAGES, [event["event_id"]]).fetchone() == (7,)


def flush(resources: Resources, failures: list[StoreUnavailableError]) -> None:
    try:
        resources.flusher.flush(0)
    except StoreUnavailableError as error:
        failures.append(error)


def is_empty_after_flush(resources: Resources) -> bool:
    resources.flusher.flush(0)
    return resources.stream.backlog(0).entries == 0
