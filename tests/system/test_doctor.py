"""`usage-worker doctor`: each check is provoked, and what cannot be asked is unknown with the reason."""

from __future__ import annotations

import json
import shutil
import socket
from contextlib import ExitStack, closing
from importlib.metadata import version
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest
import redis

from tests.conftest import FAST_POSTGRES, FAST_VALKEY, OPERATIONS, InstalledPostgres, InstalledRedis, with_login
from tests.helpers import eventually
from tests.integration.commands import SECRET, Cli
from tests.integration.database import add_pair, run
from usage_worker.local import EmbeddedPostgres, EmbeddedValkey
from usage_worker.monitoring.doctor import DOCTOR_CHECKS, diagnose, vacuum
from usage_worker.monitoring.status import CHECKS
from usage_worker.queue.connection import RedisConnection
from usage_worker.queue.heartbeat import Heartbeat
from usage_worker.queue.processes import Process, Processes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOWHERE = {"DATABASE_URL": "postgresql://127.0.0.1:1/nowhere", "REDIS_URL": "redis://127.0.0.1:1/0"}
POSTGRESQL_CHECKS = {
    *("schema", "database_role", "definitions", "sizes", "dead_rows", "hot_updates", "invalid_indexes", "autovacuum"),
    *("old_snapshots", "replication_slots", "prepared_transactions", "connections", "postgresql_disk"),
}
REDIS_CHECKS = {
    *("redis_memory", "flush", "beat", "redis_version", "redis_user", "append_only", "append_fsync", "redis_writes"),
    *("maxmemory", "worker_versions", "redis_disk"),
}
# Counts 1,100 updates of one row, each in a transaction of its own, as batches do.
UPDATES = """
    DO $$ BEGIN
        FOR i IN 1..1100 LOOP UPDATE public.user_agents SET {column} = i; COMMIT; END LOOP;
    END $$
"""


class Doctor:
    """What the doctor says with some variables, in an empty folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, **variables: str) -> None:
        self._monkeypatch = monkeypatch
        monkeypatch.chdir(folder)
        self.set(**variables)

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self._monkeypatch.setenv(name, value)

    def ask(self) -> dict[str, str]:
        """Return state, reason and remedy of each check."""
        return {check.name: f"{check.state}: {check.reason}: {check.remedy}" for check in diagnose().checks}

    def said(self, name: str) -> str:
        return self.ask()[name]


def states(said: dict[str, str], names: set[str] | None = None) -> dict[str, str]:
    """Return the states of some checks, or of all."""
    return {name: text.partition(":")[0] for name, text in said.items() if names is None or name in names}


def unanswered(said: dict[str, str], names: set[str]) -> set[str]:
    """Return which of the checks are unknown."""
    return {name for name, state in states(said, names).items() if state == "unknown"}


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: str, redis_url: str) -> Doctor:
    return Doctor(monkeypatch, tmp_path, DATABASE_URL=database, REDIS_URL=redis_url)


@pytest.fixture(scope="module")
def own_valkey(server_folder: Path, pytestconfig: pytest.Config) -> Iterator[EmbeddedValkey]:
    """Return a server whose settings these tests may change."""
    program, folder = pytestconfig.getoption("--redis-server"), server_folder / "doctor-valkey"
    made = InstalledRedis(program, folder) if program else EmbeddedValkey(folder, FAST_VALKEY)
    with made as server:
        yield server


@pytest.fixture
def own_redis(doctor: Doctor, own_valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    doctor.set(REDIS_URL=own_valkey.url())
    with redis.Redis.from_url(own_valkey.url()) as client:
        yield client


def settle(url: str, *statements: str) -> None:
    """Execute the statements, and let the statistics count them now."""
    for statement in statements:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement.encode())
            connection.execute("SELECT pg_stat_force_next_flush()")


def test_settings(doctor: Doctor, tmp_path: Path) -> None:
    assert doctor.said("unknown_variables") == "ok: USAGE_… variables set: 0, all known: "
    doctor.set(USAGE_RETENTION_DAY="40", USAGE_ACCEPT_DAYS="30")
    (tmp_path / ".env").write_text(f"USAGE_XYZZY={SECRET}\n")
    said = doctor.said("unknown_variables")
    assert said.startswith("warn: nothing reads USAGE_RETENTION_DAY; nothing reads USAGE_XYZZY: ")
    assert "USAGE_RETENTION_DAY: write USAGE_RETENTION_DAYS; USAGE_XYZZY: unset it" in said
    assert SECRET not in said
    assert "ACCEPT_DAYS" not in said


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"USAGE_HOURLY_RETENTION_DAYS": "30"}, "USAGE_RETENTION_DAYS=90"),
        ({"USAGE_ACCEPT_DAYS": "400", "USAGE_RETENTION_DAYS": "500"}, "lower it to 366"),
        ({"USAGE_SCHEDULE_PARTITIONS": "off"}, "the ledger grows"),
        ({"USAGE_EMBEDDER": "none", "USAGE_SCHEDULE_EMBED": "off"}, "new agents get no vectors"),
        ({"USAGE_EMBEDDER_MODEL": "m"}, "USAGE_EMBEDDER_MODEL without USAGE_EMBEDDER"),
    ],
)
def test_settings_that_contradict_each_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], named: str
) -> None:
    said = Doctor(monkeypatch, tmp_path, **NOWHERE, **variables).said("contradictions")
    assert said.startswith("warn: ")
    assert named in said


def test_wrong_settings_leave_the_checks_of_this_process(doctor: Doctor) -> None:
    doctor.set(USAGE_ACCEPT_DAYS="90", USAGE_ACEPT_DAYS="1")
    said = doctor.ask()
    assert list(said) == list(DOCTOR_CHECKS)
    known = {name: state for name, state in states(said).items() if state != "unknown"}
    assert known == {"settings": "fail", "unknown_variables": "warn", "packages": "ok"}
    assert "USAGE_RETENTION_DAYS must be greater than USAGE_ACCEPT_DAYS" in said["settings"]


def test_embedder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    doctor = Doctor(monkeypatch, tmp_path, **NOWHERE)
    said = doctor.ask()
    assert said["embedder"].startswith("ok: none is set")
    assert said["contradictions"].startswith("ok: ")
    doctor.set(USAGE_EMBEDDER="minilm")
    said = doctor.ask()
    assert said["embedder"].startswith("ok: ")
    assert "vectors of 384 numbers" in said["embedder"]
    doctor.set(USAGE_EMBEDDER_PATH=str(tmp_path / "nothing.onnx"))
    assert doctor.said("embedder").startswith("warn: ")
    doctor.set(USAGE_EMBEDDER="miniml")
    assert "there is no embedder 'miniml'" in doctor.said("embedder")


def test_nothing_is_written(doctor: Doctor, database: str, redis_client: redis.Redis) -> None:
    """As far as PostgreSQL can tell, no statement writes; and Redis counts no change."""
    option = "options=-cdefault_transaction_read_only%3Don"
    doctor.set(DATABASE_URL=f"{database}{'&' if '?' in database else '?'}{option}")
    redis_client.xadd("usage:events:{0}", {"v": "1"})
    redis_client.set("usage:counted:{1}", "of another type")
    changes = redis_client.info("replication")["master_repl_offset"], redis_client.dbsize()
    assert unanswered(doctor.ask(), POSTGRESQL_CHECKS | REDIS_CHECKS) <= {"hot_updates"}
    assert (redis_client.info("replication")["master_repl_offset"], redis_client.dbsize()) == changes


@pytest.mark.parametrize(
    ("variable", "fails", "unknown", "answered"),
    [
        ("DATABASE_URL", "postgresql", POSTGRESQL_CHECKS, REDIS_CHECKS),
        ("REDIS_URL", "redis", REDIS_CHECKS, POSTGRESQL_CHECKS),
    ],
)
def test_server_that_is_down(doctor: Doctor, variable: str, fails: str, unknown: set[str], answered: set[str]) -> None:
    doctor.set(**{variable: NOWHERE[variable]})
    said = doctor.ask()
    assert said[fails].startswith("fail: ")
    assert unanswered(said, unknown) == unknown
    assert unanswered(said, answered) <= {"hot_updates"}
    assert f"cannot be asked while {fails} fails" in said[min(unknown)]


def test_servers_that_hang(doctor: Doctor) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        port = silent.getsockname()[1]
        doctor.set(DATABASE_URL=f"postgresql://127.0.0.1:{port}/usage", REDIS_URL=f"redis://127.0.0.1:{port}/0")
        said = doctor.ask()
    assert set(states(said, {"redis", "postgresql"}).values()) == {"fail"}
    assert unanswered(said, REDIS_CHECKS | POSTGRESQL_CHECKS) == REDIS_CHECKS | POSTGRESQL_CHECKS


def test_role_that_counts(doctor: Doctor, database: str, ingest_url: str) -> None:
    assert doctor.said("database_role").startswith("ok: it owns the tables")
    doctor.set(DATABASE_URL=ingest_url)
    said = doctor.ask()
    assert said["database_role"].startswith("ok: it may count: for periodic tasks")
    assert unanswered(said, POSTGRESQL_CHECKS) <= {"definitions", "hot_updates", "old_snapshots", "postgresql_disk"}
    assert "run it with the owner's DATABASE_URL" in said["definitions"]
    assert "GRANT pg_read_all_stats" in said["old_snapshots"]
    doctor.set(USAGE_UNKNOWN="create")
    run(database, "REVOKE INSERT ON public.usage_events FROM usage_ingest")
    lacks = "fail: the role of DATABASE_URL lacks INSERT on usage_events, EXECUTE on usage_create_parents: "
    assert doctor.said("database_role").startswith(lacks)


def test_owner_that_may_not_create_partitions(
    doctor: Doctor, database: str, ingest_login: str, ingest_url: str
) -> None:
    """A member of the owner has its rights on tables, and of a superuser not what it may do without any."""
    doctor.set(DATABASE_URL=ingest_url)
    (owner,) = run(database, "SELECT current_user")[0]
    run(database, "REVOKE CREATE ON SCHEMA public FROM pg_database_owner, public")
    run(database, f"GRANT {owner} TO {ingest_login}")
    try:
        said = doctor.said("database_role")
    finally:
        run(database, f"REVOKE {owner} FROM {ingest_login}")
    assert said.startswith("fail: the role of DATABASE_URL lacks CREATE on schema public: ")


def test_definitions_that_differ(doctor: Doctor, database: str) -> None:
    assert doctor.said("definitions").startswith("ok: ")
    run(database, "ALTER TABLE public.user_agents SET (fillfactor = 90)")
    said = doctor.said("definitions")
    assert said.startswith("warn: 1 objects differ")
    assert "fillfactor" in said
    assert "migrate repair" in said


@pytest.mark.parametrize(
    ("before", "column", "state"),
    [
        ("CREATE INDEX own ON public.user_agents (total_tokens_used)", "total_tokens_used", "warn"),
        ("ALTER TABLE public.user_agents SET (fillfactor = 90)", "notes", "ok"),
    ],
)
def test_share_of_hot_updates(doctor: Doctor, database: str, before: str, column: str, state: str) -> None:
    add_pair(database)
    settle(database, before, UPDATES.format(column=column))
    said = doctor.said("hot_updates")
    assert said.startswith(f"{state}: ")
    assert "1,100 updates of user_agents" in said
    assert ("drop indexes of your own" in said) == (state == "warn")


def test_dead_rows(doctor: Doctor, database: str) -> None:
    add = """
        INSERT INTO public.usage_event_keys (key, occurred_at)
        SELECT gen_random_uuid(), now() FROM generate_series(1, 11000)
    """
    run(database, "ALTER TABLE public.usage_event_keys SET (autovacuum_enabled = off)")
    settle(database, add, "DELETE FROM public.usage_event_keys")
    said = doctor.ask()
    assert said["dead_rows"].startswith("warn: usage_event_keys has 11 k dead rows beside 0")
    assert said["autovacuum"].startswith("fail: cost limit 2000, ")
    assert "; it is switched off for usage_event_keys: " in said["autovacuum"]
    assert "RESET (autovacuum_enabled)" in said["autovacuum"]
    assert "too few to tell" in said["hot_updates"]


def test_invalid_index(doctor: Doctor, database: str) -> None:
    for _ in range(2):
        add_pair(database)
    with pytest.raises(psycopg.errors.UniqueViolation):
        run(database, "CREATE UNIQUE INDEX CONCURRENTLY twice ON public.user_agents (status)")
    assert "warn: the index twice of user_agents is invalid" in doctor.said("invalid_indexes")


def test_what_holds_vacuum_back(doctor: Doctor, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vacuum, "OLD_SECONDS", 0.0)
    with psycopg.connect(database, application_name=f"report\x1b of {SECRET}") as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1")
        said = doctor.said("old_snapshots")
        assert said.startswith(f"warn: pid {reader.info.backend_pid}, role ")
        assert "(idle in transaction) keeps dead rows" in said
        assert "\x1b" not in said
        reader.execute("PREPARE TRANSACTION 'doctor'")
    try:
        assert doctor.said("prepared_transactions").startswith("warn: the transaction 'doctor' of ")
    finally:
        run(database, "ROLLBACK PREPARED 'doctor'")


def test_table_that_somebody_holds(doctor: Doctor, database: str) -> None:
    with psycopg.connect(database) as holder:
        holder.execute("LOCK TABLE public.user_agents")
        said = doctor.ask()
    assert said["sizes"].startswith("unknown: others hold what a statement waits for")
    assert unanswered(said, POSTGRESQL_CHECKS) == {"definitions", "sizes", "dead_rows", "hot_updates"}


def test_replication_slot_that_nobody_reads(doctor: Doctor, database: str) -> None:
    run(database, "SELECT pg_create_physical_replication_slot('usage_doctor', true)")
    try:
        said = doctor.ask()
    finally:
        run(database, "SELECT pg_drop_replication_slot('usage_doctor')")
    expected = "warn: nobody reads the replication slot usage_doctor (reserved), and it keeps "
    assert said["replication_slots"].startswith(expected)
    quiet = {"invalid_indexes", "old_snapshots", "prepared_transactions", "dead_rows"}
    assert set(states(said, quiet).values()) == {"ok"}


def test_server_with_few_connections_and_slow_autovacuum(
    doctor: Doctor, server_folder: Path, pytestconfig: pytest.Config
) -> None:
    programs, folder = pytestconfig.getoption("--postgres-bin"), server_folder / "doctor-postgres"
    slow = {"max_connections": "10", "autovacuum_vacuum_cost_limit": "200"}
    made = InstalledPostgres(programs, folder) if programs else EmbeddedPostgres(folder, FAST_POSTGRES)
    made.settings |= slow
    with made as server, ExitStack() as sessions:
        doctor.set(DATABASE_URL=server.url())
        said = doctor.ask()
        assert said["autovacuum"].startswith("warn: cost limit 200, delay 2 ms")
        assert said["schema"].startswith("fail: ")
        assert "cannot be asked while schema fails" in said["definitions"]
        assert said["connections"].startswith("ok: ")
        for _ in range(6):
            sessions.enter_context(psycopg.connect(server.url()))
        taken = doctor.said("connections")
        assert taken.startswith(
            "warn: 7 of 7 sessions that max_connections allows are taken, 1 of them by usage-worker"
        )


def test_disk_and_memory_of_redis(doctor: Doctor, own_redis: redis.Redis, own_valkey: EmbeddedValkey) -> None:
    own_redis.config_set("appendfsync", "no")
    said = doctor.ask()
    assert said["append_only"].startswith("warn: appendonly no")
    assert said["maxmemory"].startswith("warn: no limit")
    assert said["append_fsync"].startswith("warn: appendfsync no")
    for name, value in {"appendonly": "yes", "appendfsync": "always", "maxmemory": "100mb"}.items():
        own_redis.config_set(name, value)
    said = doctor.ask()
    assert set(states(said, {"append_only", "append_fsync", "redis_writes", "maxmemory"}).values()) == {"ok"}
    assert "limit 100 MiB, noeviction" in said["maxmemory"]
    own_redis.config_set("appendonly", "no")
    shutil.rmtree(own_valkey.data_dir / "data")
    eventually(lambda: not own_redis.info("persistence")["rdb_bgsave_in_progress"])
    own_redis.bgsave()
    eventually(lambda: own_redis.info("persistence")["rdb_last_bgsave_status"] == "err")
    assert doctor.said("redis_writes").startswith("fail: Redis could not write to its disk")


def test_redis_is_asked_once_for_its_details(doctor: Doctor, own_redis: redis.Redis) -> None:
    own_redis.config_resetstat()
    doctor.ask()
    # Of the status for its snapshots, and of the doctor for the rest.
    assert own_redis.info("commandstats")["cmdstat_config|get"]["calls"] == 2


@pytest.fixture
def limited_user(redis_client: redis.Redis) -> Iterator[str]:
    """Return a user with every right, whose password is its name."""
    name = f"doctor-{uuid4().hex}"
    redis_client.acl_setuser(name, enabled=True, passwords=f"+{name}", keys=["*"], channels=["*"], categories=["+@all"])
    yield name
    redis_client.acl_deluser(name)


def test_user_with_few_rights(doctor: Doctor, redis_client: redis.Redis, redis_url: str, limited_user: str) -> None:
    """As on managed servers: what the user may not ask is unknown, and what it may not do fails."""
    doctor.set(REDIS_URL=with_login(redis_url, limited_user, limited_user))
    assert doctor.said("redis_user").startswith("ok: ")
    redis_client.acl_setuser(limited_user, enabled=True, commands=["-config|get"])
    assert doctor.said("append_fsync").startswith("unknown: this server or user has no CONFIG GET")
    redis_client.acl_setuser(limited_user, enabled=True, commands=["-info", "-xclaim"], reset_channels=True)
    said = doctor.ask()
    unknown = {"redis_memory", "eviction", "append_only", "redis_writes", "maxmemory", "redis_version"}
    assert unanswered(said, unknown) == unknown
    assert "info" in said["append_only"]
    denied = "XCLAIM usage:events:{doctor}, PSUBSCRIBE /doctor.*: "
    assert said["redis_user"].startswith(f"fail: the user of REDIS_URL may not use {denied}")


def test_documented_user_lacks_nothing(doctor: Doctor, redis_worker_url: str) -> None:
    doctor.set(REDIS_URL=redis_worker_url)
    assert unanswered(doctor.ask(), REDIS_CHECKS) == set()
    assert doctor.said("redis_user").startswith("ok: ")


def test_workers_of_another_version(doctor: Doctor, redis_url: str) -> None:
    with closing(RedisConnection(redis_url)) as connection:
        Processes(connection).record("old@here", Process("worker", ["counting"], ["celery"], 2, "0.0.1"))
    assert f"warn: old@here runs 0.0.1, and this command is {version('usage-worker')}" in doctor.said("worker_versions")


def test_command(tmp_path: Path, database: str, redis_url: str) -> None:
    cli = Cli(tmp_path, DATABASE_URL=database, REDIS_URL=redis_url)
    failing = cli.run("doctor")
    assert failing.returncode == 1
    assert "\x1b" not in failing.stdout
    assert any(line.startswith("fail\tconsumer_counting\t") for line in failing.stdout.splitlines())
    with closing(RedisConnection(redis_url)) as connection:
        worker = Process("worker", ["counting", "maintenance"], ["celery"], 2, version("usage-worker"), uptime=9.0)
        Processes(connection).record("worker@here", worker)
        Heartbeat(connection).beat()
    done = cli.run("doctor", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["failed"], found["counts"]["fail"]) == (0, False, 0)
    assert found["counts"]["warn"] > 0
    assert [check["check"] for check in found["checks"]] == list(DOCTOR_CHECKS)
    assert f"{len(DOCTOR_CHECKS)} checks: " in cli.run("doctor").stdout.splitlines()[-1]
    cli.env["REDIS_URL"] = with_login("redis://127.0.0.1:1/0", "default", SECRET)
    assert cli.run("doctor").returncode == 1  # `run` asserts that the password is not shown


def test_page_lists_every_check() -> None:
    page = (OPERATIONS.parent / "doctor.md").read_text("utf-8")
    assert [name for name in DOCTOR_CHECKS if name not in CHECKS and f"| `{name}` |" not in page] == []
