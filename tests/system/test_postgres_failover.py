"""A standby of PostgreSQL is promoted under load: workers go on by themselves, nothing is lost or counted twice."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.erasure import FORGET_KEY, naming
from tests.faults.harness import UNKNOWN_USER, Harness
from tests.faults.proxy import Proxy
from tests.helpers import eventually
from tests.integration.commands import SECRET, Cli
from tests.preloaded import preloaded
from tests.standby import SETTINGS, configure, copy_of, has_caught_up, promote, require_standby
from usage_worker.errors import StoreUnavailableError
from usage_worker.local import EmbeddedPostgres
from usage_worker.local.supervisor import Supervisor
from usage_worker.maintenance.reconcile import reconcile
from usage_worker.migrate import Runner
from usage_worker.store.connection import Store
from usage_worker.testing.oracle import Oracle
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATABASE = "usage"
WAITING = """
    SELECT EXISTS (SELECT FROM public.usage_forgotten) AND EXISTS (
               SELECT FROM pg_stat_activity WHERE datname = 'usage' AND wait_event_type = 'Lock')
"""


class Pair:
    """A primary, `one`, and its standby, `two`, each behind an address of its own."""

    def __init__(self, one: EmbeddedPostgres, two: EmbeddedPostgres) -> None:
        self.one, self.two = one, two
        self.places = [Proxy(server.url(DATABASE)) for server in (one, two)]

    @property
    def addresses(self) -> list[str]:
        return [proxy.url.partition("@")[2].partition("/")[0] for proxy in self.places]

    @property
    def url(self) -> str:
        hosts = ",".join(self.addresses)
        return f"postgresql://postgres:{SECRET}@{hosts}/{DATABASE}?sslmode=disable&gssencmode=disable"

    def close(self) -> None:
        for proxy in self.places:
            proxy.close()


@pytest.fixture
def pair(server_folder: Path, tmp_path: Path) -> Iterator[Pair]:
    folder = server_folder / tmp_path.name
    folder.mkdir()
    folder.chmod(0o755)
    with EmbeddedPostgres(folder / "one", SETTINGS) as one:
        Runner(one.ensure_database(DATABASE)).up()
        with copy_of(one, folder / "two") as two, closing(Pair(one, two)) as pair:
            eventually(lambda: has_caught_up(one), 30)
            yield pair


def test_workers_follow_a_failover_under_load(
    pair: Pair, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USAGE_RECLAIM_IDLE", "2")
    monkeypatch.setenv("USAGE_FLUSH_INTERVAL", "1")
    require_standby(pair.one)
    with (
        closing(Harness(pair.url, redis_url)) as harness,
        Supervisor(pair.url, redis_url, workers=2, concurrency=1, flower_port=None, log_dir=tmp_path) as celery,
    ):
        celery.wait_ready(180)
        started = celery.pids
        with harness.publishers(tmp_path, 2, 6_000):
            eventually(lambda: harness.intake.accepted > 500, 30)
            # Its machine is gone: nobody refuses a connection to its address.
            with pair.places[0].silent():
                pair.one.kill()
                pair.places[0].cut_all()
                promote(pair.two)
                before, began = accepted(pair.two), time.monotonic()
                eventually(lambda: accepted(pair.two) > before, 90)
                # With a pause of a second between two ticks, and two for each address that does not answer.
                assert time.monotonic() - began < 60
        harness.reconnect()
        eventually(harness.settled, 30)
        celery.poll()
        assert celery.pids == started
        harness.check()
        assert reconcile(harness.resources.store, harness.resources.settings).differences == []


def test_commands_of_administrators_meet_a_failover(pair: Pair, redis_url: str, tmp_path: Path) -> None:
    """`correct` and `forget` end with one line, and do all of it when they are repeated, on the other server."""
    cli = Cli(tmp_path, DATABASE_URL=pair.url, REDIS_URL=redis_url, USAGE_FORGET_KEY=FORGET_KEY)
    with closing(Harness(pair.url, redis_url, forget_key=FORGET_KEY)) as harness:
        harness.redis.flushdb()
        sent = [it for it in harness.traffic(400, mix="production") if str(it["user_id"]) != UNKNOWN_USER]
        gone = sent[0]["user_id"]
        wrong = next(it for it in sent if "rating" not in it and it["user_id"] != gone)
        right = wrong | {"input_tokens": 4_242, "output_tokens": 0, "tokens": 4_242}
        harness.publish(sent)
        harness.drain()
        require_standby(pair.one)
        preloaded()  # once, not in each thread
        commands = [
            ["correct", str(wrong["event_id"]), "--set=input_tokens=4242", "--set=output_tokens=0", "--yes"],
            ["forget", str(gone), "--yes"],
        ]
        with (
            closing(psycopg.connect(pair.one.url(DATABASE))) as holder,
            closing(psycopg.connect(pair.one.url(DATABASE), autocommit=True)) as observer,
            ThreadPoolExecutor(2) as pool,
        ):
            # The correction waits in its only transaction, the erasure after its first ones.
            holder.execute("SELECT FROM public.usage_events WHERE event_id = %s FOR UPDATE", [wrong["event_id"]])
            holder.execute("SELECT FROM public.user_agents WHERE user_id = %s FOR UPDATE", [gone])
            running = [pool.submit(cli.run, *command) for command in commands]
            eventually(lambda: observer.execute(WAITING).fetchone() == (True,), 60)
            pair.one.kill()
            promote(pair.two)
            for done in (it.result() for it in running):
                # An erasure may have been between two transactions, and go on with the other server.
                assert (done.returncode, len(done.stderr.splitlines())) in {(0, 0), (1, 1)}, done
        for command in commands:
            done = cli.run(*command)
            assert done.returncode == 0, done.stderr
        harness.reconnect()
        assert naming(pair.two.url(DATABASE), str(gone)) == set()
        oracle = Oracle()
        for it in sent:
            if it["user_id"] != gone:
                oracle.add(right if it is wrong else it)
        store = harness.resources.store
        assert oracle.differences(store.rows(testing_query("counters"))) == []
        assert store.intake_totals().applied == oracle.distinct
        assert reconcile(store, harness.resources.settings).differences == []


def test_status_and_doctor_name_the_servers(pair: Pair, redis_url: str, tmp_path: Path) -> None:
    cli = Cli(tmp_path, DATABASE_URL=pair.url, USAGE_REDIS_URL=redis_url)
    one, two = pair.addresses
    assert replication(cli) == ("warn", "set synchronous_standby_names: docs/postgresql-failover.md")
    require_standby(pair.one)
    assert replication(cli) == ("ok", "")
    with psycopg.connect(pair.one.url(DATABASE), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {DATABASE} SET synchronous_commit = local".encode())
    assert replication(cli) == ("warn", "ALTER ROLE or DATABASE … RESET synchronous_commit")
    assert checked(cli) == ("ok", one, {one: f"{one}, primary", two: f"{two}, standby"})
    with Store(pair.url) as store:
        promote(pair.two)
        # The old primary takes writes as before, and keeps those who are connected to it.
        assert written_by(store) == one
        assert checked(cli) == ("fail", one, {one: f"{one}, primary", two: f"{two}, primary"})
        configure(pair.one, "default_transaction_read_only", "on")
        # The first transaction finds out that its session has become read-only.
        with pytest.raises(StoreUnavailableError, match="read-only transaction"):
            written_by(store)
        assert written_by(store) == two
    assert checked(cli) == ("ok", two, {one: f"{one}, read-only", two: f"{two}, primary"})
    pair.two.kill()
    for command in ("migrate status", "run purge", "report"):
        line = cli.error_line(command)
        assert f"{one}: session is read-only; {two}: " in line, line


def checked(cli: Cli) -> tuple[str, str, dict[str, str | None]]:
    """Return the state of the check of the servers, the one in use, and what is known of each."""
    status = json.loads(cli.run("status", "--json").stdout)
    assert status["server"]["is_standby"] is False
    return status["checks"]["servers"], status["server"]["place"], status["servers"]


def replication(cli: Cli) -> tuple[str, str]:
    found = json.loads(cli.run("doctor", "--json").stdout)["checks"]
    (check,) = [it for it in found if it["check"] == "replication"]
    return check["state"], check["remedy"]


def written_by(store: Store) -> str:
    """Check as a flush does that the store can be written, and return the address of its server."""
    store.ping()
    with store.connection() as connection:
        return f"{connection.info.host}:{connection.info.port}"


def accepted(server: EmbeddedPostgres) -> int:
    with Store(server.url(DATABASE)) as store:
        return store.intake_totals().accepted
