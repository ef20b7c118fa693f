"""The checks of the status one by one: each names its cause and nothing else, and is green without it."""

from __future__ import annotations

import json
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.commands import Cli, events
from tests.integration.database import run, with_option
from tests.integration.ledger import create_days, days
from usage_worker.events.tombstones import ForgetKey
from usage_worker.maintenance.reconcile import run_reconcile
from usage_worker.maintenance.registry import PERIODIC_TASKS
from usage_worker.migrate import Runner
from usage_worker.monitoring.checks.upkeep import missed_two
from usage_worker.monitoring.status import CHECKS, collect_status
from usage_worker.publisher import UsagePublisher
from usage_worker.queue.flush_record import FlushRecords
from usage_worker.queue.forgotten import ForgottenSet
from usage_worker.queue.heartbeat import Heartbeat
from usage_worker.queue.processes import Process, Processes, shards_of_workers
from usage_worker.service.schedule import schedule_entries
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.conftest import IngestHarness
    from usage_worker.monitoring.status import SystemStatus
    from usage_worker.service.resources import Resources

MINUTE_MS = 60_000
UNREACHABLE = {"DATABASE_URL": "postgresql://127.0.0.1:1/nowhere", "REDIS_URL": "redis://127.0.0.1:1/0"}
RECORD = "usage:flush:{0}"
# Several lines, with an escape sequence, longer than a screen; what follows the first line may quote rows.
REFUSE = r"""
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE EXCEPTION USING ERRCODE = '%code', MESSAGE = E'not \x1b[31mnow\t' || repeat('x', 9000) || E'\nsecret';
    END $$
"""
RAN = "INSERT INTO usage_task_runs (task, finished_at, seconds, report) VALUES (%s, now() - %s::interval, 1, '{}')"


class Service:
    """Records as of a worker for both queues and a beat, and what the status says of them."""

    def __init__(self, harness: IngestHarness) -> None:
        self.harness, self.redis = harness, harness.redis
        self.settings = harness.resources.settings
        self.connection = harness.resources.stream.connection
        self.records = FlushRecords(self.connection)
        self.worker("worker@here", "counting", "maintenance")
        self.record("beat@here", Process("beat", [], [], None, "1", uptime=100.0))
        Heartbeat(self.connection).beat()
        for shard in range(2):
            self.records.succeeded(shard)

    def worker(self, name: str, *roles: str, shards: int = 2) -> None:
        self.record(name, Process("worker", list(roles), ["celery", "maintenance"], shards, "1", uptime=100.0))

    def record(self, name: str, process: Process) -> None:
        Processes(self.connection).record(name, process)

    def age(self, name: str, seconds: int) -> None:
        """Make the record of a process older."""
        record: Any = self.redis.hget("usage:processes", name)
        at, _, text = record.partition(b" ")
        self.redis.hset("usage:processes", name, b"%d %s" % (int(at) - seconds, text))

    def age_heartbeat(self, seconds: float) -> None:
        beat: Any = self.redis.get("usage:heartbeat")
        self.redis.set("usage:heartbeat", float(beat) - seconds)

    def add_old(self, minutes: float = 10, **fields: str) -> None:
        """Add an entry whose id is `minutes` old by the clock of Redis."""
        reply: Any = self.redis.time()
        entry: Any = {"v": "1", "n": "1", "events": f"[{events(1).strip()}]"} | fields
        self.redis.xadd("usage:events:{0}", entry, id=f"{reply[0] * 1000 - int(minutes * MINUTE_MS)}-0")

    def status(self) -> SystemStatus:
        return collect_status(self.settings)

    def problems(self) -> dict[str, str]:
        """Return reason and remedy by check; without what the server of the tests, which keeps nothing, gets told."""
        found = {problem.name: f"{problem.reason}: {problem.remedy}" for problem in self.status().problems}
        found.pop("persistence", None)
        return found


@pytest.fixture
def service(harness: IngestHarness) -> Service:
    return Service(harness)


def test_everything_at_work_is_healthy(service: Service) -> None:
    assert service.problems() == {}
    assert service.status().healthy
    assert [check.name for check in service.status().checks] == list(CHECKS)


@pytest.mark.parametrize(("gone", "other"), [("counting", "maintenance"), ("maintenance", "counting")])
def test_queue_without_worker(service: Service, gone: str, other: str) -> None:
    service.worker("worker@here", other)
    service.worker("idle@here", gone)
    service.age("idle@here", 40)
    if gone == "counting":
        service.age_heartbeat(60)  # that worker executes them
    seen = service.problems()
    assert seen.keys() == {f"consumer_{gone}"}
    assert "idle@here was last seen 4" in seen[f"consumer_{gone}"]


def test_beat_that_is_gone(service: Service) -> None:
    service.age("beat@here", 20)
    assert service.problems() == {}  # its heartbeats still arrive
    service.age_heartbeat(30)
    seen = service.problems()
    assert seen.keys() == {"beat"}
    assert "no beat runs; beat@here was last seen 2" in seen["beat"]


def test_beat_whose_ticks_do_not_arrive(service: Service) -> None:
    service.redis.delete("usage:heartbeat")
    assert service.problems()["beat"].startswith("beat runs, but nothing that it sends was ever executed")
    service.add_old(minutes=0.1)
    assert service.problems() == {}  # workers that are busy with a backlog let heartbeats expire
    service.redis.delete("usage:flush:{0}", "usage:flush:{1}")
    assert service.problems().keys() == {"beat"}  # none is busy
    service.record("beat@here", Process("beat", [], [], None, "1", uptime=3.0))
    assert service.problems() == {}  # it has just begun


def test_periodic_tasks_that_are_off_need_no_worker(service: Service) -> None:
    off = {f"schedule_{task.label}": "off" for task in PERIODIC_TASKS}
    service.settings = service.settings.model_copy(update=off)
    service.worker("worker@here", "counting")
    assert service.problems() == {}


def test_different_numbers_of_shards(service: Service) -> None:
    service.worker("worker@here", "counting", "maintenance", shards=4)
    seen = service.status()
    assert seen.healthy
    assert seen.figures.backlog
    assert seen.figures.backlog.keys() == {0, 1, 2, 3}
    assert "the workers have 4 shards, and this command has 2" in service.problems()["shards_setting"]
    service.worker("other@here", "counting")
    assert "worker@here: 4" in service.problems()["shards_setting"]
    assert service.status().healthy


def test_publisher_compares_its_shards(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.worker("worker@here", "counting", "maintenance", shards=3)
    event = {"user_id": service.harness.users[0], "agent_id": service.harness.agents[0]}
    with caplog.at_level(logging.WARNING), UsagePublisher(service.settings.redis_url, linger=0) as publisher:
        for _ in range(2):
            assert publisher.add(dict(event))
            assert publisher.flush()
    warned = [record.getMessage() for record in caplog.records if "USAGE_STREAM_SHARDS" in record.getMessage()]
    assert warned == ["USAGE_STREAM_SHARDS is 2 here, and the workers have 3 shards: the others stay empty"]


def test_publishers_see_the_greatest_number_of_living_workers(service: Service) -> None:
    service.worker("worker@here", "counting", "maintenance", shards=4)
    service.worker("other@here", "counting")
    assert shards_of_workers(service.connection) == 4
    service.age("worker@here", 16)
    service.worker("other@here", "counting")
    assert shards_of_workers(service.connection) == 2


def test_two_workers_of_one_name(service: Service) -> None:
    process = Process("worker", ["counting", "maintenance"], ["celery", "maintenance"], 2, "1", host="one, process 7")
    one, two = Processes(service.connection), Processes(service.connection)
    one.record("worker@here", process)
    two.record("worker@here", process._replace(host="two, process 9"))
    two.record("worker@here", process._replace(host="two, process 9"))
    assert service.problems() == {}  # a worker that was restarted
    for _ in range(2):
        one.record("worker@here", process)
        two.record("worker@here", process._replace(host="two, process 9"))
    assert "worker@here on two, process 9 and on one, process 7" in service.problems()["node_names"]


def test_entries_beyond_the_number_of_shards(service: Service) -> None:
    service.redis.xadd("usage:events:{5}", {"v": "1"})
    stack = service.status()
    assert stack.healthy
    assert "1 in shard 5" in service.problems()["foreign_shards"]
    service.redis.delete("usage:events:{5}")
    service.redis.xadd("usage:events:{5}", {"v": "1"}, id=f"{int((time.time() - 60) * 1000)}-0")
    assert not service.status().healthy
    assert "the oldest for 6" in service.problems()["foreign_shards"]


def test_old_entry_without_commit(service: Service) -> None:
    service.add_old()
    seen = service.problems()
    assert seen.keys() == {"oldest_entry"}
    assert "shard 0: the oldest of 1 entries" in seen["oldest_entry"]
    assert "nothing was ever counted" in seen["oldest_entry"]
    service.settings = service.settings.model_copy(update={"flush_interval": 3600.0})
    assert service.problems() == {}  # the next flush is not due


def test_backlog_that_shrinks_is_healthy_however_old(service: Service) -> None:
    service.add_old(minutes=10)
    service.add_old(minutes=9)
    service.harness.worker.stream.read(0, "vanished", 1)
    service.records.counted(0, 1, 0)
    assert service.problems() == {}
    counted: Any = service.redis.hget(RECORD, "counted")
    service.redis.hset(RECORD, "counted", float(counted) - 21)
    assert service.problems() == {}  # the next one is in the hands of the reader
    entries: Any = service.redis.xrange("usage:events:{0}", count=1)
    reader = "usage:events:{0}", "usage", "vanished"
    service.redis.xclaim(*reader, 0, [entries[0][0]], idle=21_000, retrycount=1, justid=True)
    assert "the last batch was counted 2" in service.problems()["oldest_entry"]


def test_entry_that_is_delivered_again_and_again(service: Service) -> None:
    service.add_old()
    stream = service.harness.worker.stream
    stream.read(0, "first", 1)
    for consumer in ("second", "third", "fourth"):
        service.records.counted(0, 1, 0)  # others are counted meanwhile
        assert service.problems() == {}
        stream.reclaim(0, consumer, 1, 0)
    assert "it was delivered 4 times" in service.problems()["oldest_entry"]


def test_entry_with_id_in_the_future_hides_nothing(service: Service) -> None:
    entry: Any = {"v": "1", "n": "1", "events": f"[{events(1).strip()}]"}
    service.redis.xadd("usage:events:{0}", entry, id="253402300799000-0")
    assert service.problems().keys() == {"future_ids", "oldest_entry"}


def test_newer_wire_version_waits_and_is_named(service: Service) -> None:
    service.add_old(v="7")
    seen = service.problems()
    assert seen.keys() == {"wire_version"}
    assert "has version 7" in seen["wire_version"]
    assert "upgrade the workers" in seen["wire_version"]


def test_flush_that_fails(service: Service) -> None:
    service.records.failed(0, "the disk is full")
    assert service.problems() == {}  # a flush has just succeeded
    succeeded: Any = service.redis.hget(RECORD, "succeeded")
    service.redis.hset(RECORD, "succeeded", float(succeeded) - 35)
    seen = service.problems()
    assert seen.keys() == {"flush"}
    assert "the disk is full" in seen["flush"]
    service.records.succeeded(0)
    assert service.problems() == {}


@pytest.mark.parametrize("code", ["57P03", "0A000", "57014"])  # ours, one that we do not translate, a cancelled one
def test_recorded_error_is_printable(
    service: Service, make_resources: Callable[..., Resources], database: str, code: str
) -> None:
    resources = make_resources(DATABASE_URL=database, reclaim_idle=0.01, unknown="create")
    run(database, REFUSE.replace("%code", code))
    run(database, "CREATE TRIGGER refuse BEFORE INSERT ON usage_intake FOR EACH ROW EXECUTE FUNCTION refuse()")
    service.add_old()
    with pytest.raises(Exception, match="not"):
        resources.flusher.flush(0)
    record, _ = service.records.read(0)
    assert record.is_failing
    assert record.error
    assert r"not \x1b[31mnow\t" in record.error
    assert len(record.error) <= 200
    assert "secret" not in record.error


def test_share_that_was_quarantined(service: Service) -> None:
    service.records.counted(0, 100, 5)
    assert service.problems() == {}
    service.records.counted(1, 10, 1)
    seen = service.problems()
    assert seen.keys() == {"quarantined"}
    assert "6 of 110 events of the last 10 minutes were quarantined" in seen["quarantined"]
    fields: Any = service.redis.hkeys("usage:flush:{1}")
    for field in (field for field in fields if b":" in field):
        name, _, minute = field.partition(b":")
        service.redis.hset("usage:flush:{1}", b"%s:%d" % (name, int(minute) - 10), 1_000)
        service.redis.hdel("usage:flush:{1}", field)
    assert service.problems() == {}
    service.records.counted(1, 1, 0)  # forgets what is older
    assert service.redis.hlen("usage:flush:{1}") == 4


def test_lost_and_evicted_entries(service: Service) -> None:
    service.harness.publish({"user_id": uuid4(), "agent_id": uuid4()}, counted=False)
    service.harness.flush()
    service.redis.xadd("usage:events:{0}", {"v": "1"})
    service.redis.xtrim("usage:events:{0}", 0, approximate=False)
    assert "1 entries vanished uncounted" in service.problems()["vanished_entries"]


def only_forgotten(service: Service) -> str:
    seen = service.problems()
    assert seen.keys() == {"forgotten"}
    return seen["forgotten"]


def test_erased_users_of_two_servers(service: Service, database: str) -> None:
    ours = ForgetKey("k" * 32)
    forgotten, one, two = ForgottenSet(service.connection), ours.tombstone(uuid4()), ours.tombstone(uuid4())
    insert = "INSERT INTO usage_forgotten (hash, key_id) VALUES (%s, %s)"
    service.settings = service.settings.model_copy(update={"forget_key": "k" * 32})
    assert service.problems() == {}
    forgotten.add([one, two])
    run(database, insert, *one)
    assert re.search("Redis knows 1 erased users that the database does not.*--again", only_forgotten(service))
    run(database, insert, *two)
    assert service.problems() == {}
    service.redis.delete("usage:forgotten")
    assert re.search("in Redis lacks 2 erased users.*--again", only_forgotten(service))
    forgotten.add([one, two])
    service.settings = service.settings.model_copy(update={"forget_key": ""})
    assert re.search("2 users were erased with a USAGE_FORGET_KEY, which is not set", only_forgotten(service))
    service.settings = service.settings.model_copy(update={"forget_key": "o" * 32})
    assert re.search("2 users were erased with another USAGE_FORGET_KEY", only_forgotten(service))
    assert not service.status().healthy


def test_erased_users_are_compared_on_the_schema_before_this_one(service: Service, database: str) -> None:
    Runner(database).down("5.1.0")
    ForgottenSet(service.connection).add([ForgetKey("k" * 32).tombstone(uuid4())])
    assert service.problems().keys() == {"schema", "forgotten"}


def test_clock_that_is_wrong(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        now = time.time()
        patch.setattr(time, "time", lambda: now + 40 * 86_400)
        service.worker("worker@here", "counting", "maintenance")
    seen = service.problems()
    assert seen.keys() == {"clocks"}
    assert "the clock of worker@here is 3,456,00" in seen["clocks"]


def test_read_only_session_of_status_alone(service: Service, database: str) -> None:
    read_only = with_option(database, "default_transaction_read_only=on")
    service.settings = service.settings.model_copy(update={"database_url": read_only})
    assert service.problems() == {}  # the workers' flushes succeed
    for shard in range(2):
        service.records.failed(shard, "cannot execute INSERT in a read-only transaction")
    assert "read_only" in service.problems()


def test_periodic_task_that_missed_two_runs(service: Service, database: str) -> None:
    others = dict.fromkeys(("schedule_reconcile", "schedule_purge"), "off")  # it may have waited for them
    service.settings = service.settings.model_copy(update=others)
    run(database, RAN, "analytics.refresh", "12 minutes")
    seen = service.problems()
    assert seen.keys() == {"periodic_tasks"}
    assert "analytics.refresh ended last at" in seen["periodic_tasks"]
    assert "run `usage-worker run refresh`" in seen["periodic_tasks"]
    service.settings = service.settings.model_copy(update={"schedule_analytics": "off"})
    assert service.problems() == {}


def test_periodic_task_that_waits_behind_a_long_one(service: Service, database: str) -> None:
    """One process may execute both; the longer one has been due since the other ended."""
    run(database, RAN, "analytics.refresh", "12 minutes")
    # A purge, which is due once an hour, would delay it by its budget.
    of_reconcile = {"schedule_reconcile": "600", "reconcile_budget": 600.0, "schedule_purge": "off"}
    service.settings = service.settings.model_copy(update=of_reconcile)
    assert service.problems() == {}
    # Due a minute before the other ended, and not at an end yet.
    service.settings = service.settings.model_copy(update={"schedule_reconcile": "900"})
    run(database, RAN, "maintenance.reconcile", "28 minutes")
    assert service.problems() == {}
    run(database, "UPDATE usage_task_runs SET seconds = 7200 WHERE task = 'maintenance.reconcile'")  # by hand, say
    run(database, "UPDATE usage_task_runs SET finished_at = now() - interval '25 minutes'")
    assert service.problems().keys() == {"periodic_tasks"}
    is_refresh = "WHERE task = 'analytics.refresh'"
    run(database, f"UPDATE usage_task_runs SET finished_at = now() - interval '12 minutes' {is_refresh}")
    assert service.problems() == {}
    service.settings = service.settings.model_copy(update={"reconcile_budget": 30.0})
    assert service.problems().keys() == {"periodic_tasks"}


def test_differences_that_the_last_reconcile_left(service: Service, cli: Cli) -> None:
    harness = service.harness
    harness.publish({"user_id": harness.users[0], "agent_id": harness.agents[0], "tokens": 5}, counted=False)
    harness.flush()
    store, url = harness.resources.store, service.settings.database_url
    assert run_reconcile(store, service.settings)["left"] == 0
    assert service.problems() == {}
    run(url, "UPDATE user_agents SET usage_count = 0, total_tokens_used = 7")
    found = run_reconcile(store, service.settings)
    assert (found["left"], found["unexplained"]) == (2, 1)
    seen = service.problems()
    assert seen.keys() == {"reconcile"}
    assert re.search(
        r"on \d{4}-\d\d-\d\d .*UTC, left 2 differences of totals, 1 of them unexplained: ", seen["reconcile"]
    )
    assert "`usage-worker run reconcile`" in seen["reconcile"]
    assert service.status().healthy  # events are counted
    # A run that compares less, as one of other days, or one whose time budget is spent at once.
    assert cli.run("run", "reconcile", "--from", "2020-01-01", "--to", "2020-01-02").returncode == 1
    assert service.problems().keys() == {"reconcile"}
    run_reconcile(store, service.settings.model_copy(update={"reconcile_budget": 0.0}))
    assert service.problems().keys() == {"reconcile"}
    assert cli.run("run", "reconcile", "--accept-unexplained").returncode == 0
    assert service.problems() == {}
    run_reconcile(store, service.settings.model_copy(update={"reconcile_budget": 0.0}))
    assert "had no time to compare everything: raise USAGE_RECONCILE_BUDGET" in service.problems()["reconcile"]
    run_reconcile(store, service.settings)
    assert service.problems() == {}


@pytest.mark.parametrize(
    ("when", "hours", "missed"), [("30 3 * * *", 47, False), ("30 3 * * *", 49, True), ("600", 1, True)]
)
def test_second_missed_run(when: str, hours: int, missed: bool) -> None:
    (entry,) = (it for it in schedule_entries(Settings(schedule_reconcile=when)) if it.name == "reconcile")
    finished = datetime(2026, 11, 20, 3, 31, tzinfo=UTC)
    assert missed_two(entry, finished, finished + timedelta(hours=hours)) is missed


def test_lock_that_a_role_may_not_see_into(service: Service, ingest_url: str, database: str) -> None:
    with psycopg.connect(database, application_name="forged\x1b[31m") as holder:
        holder.execute("LOCK TABLE public.usage_daily IN SHARE MODE")
        service.settings = service.settings.model_copy(update={"database_url": ingest_url})
        seen = service.problems()
        assert f"pid {holder.info.backend_pid}, role " in seen["locks"]
        assert "usage_daily" in seen["locks"]
        assert "\x1b" not in seen["locks"]
    assert service.problems() == {}


def test_detach_that_waits_for_a_report_is_no_problem(service: Service, database: str) -> None:
    """It delays nobody, and no flush waits for the report."""
    create_days(database, -100)
    (day,) = days(-100)
    is_old = "SELECT 1 FROM pg_stat_activity WHERE pid = {} AND xact_start < clock_timestamp() - interval '5 seconds'"
    is_waiting = "SELECT 1 FROM pg_locks WHERE pid = {} AND locktype = 'virtualxid' AND NOT granted"
    ours = psycopg.connect(database, autocommit=True, application_name="usage-worker")
    with ours, psycopg.connect(database) as report, ThreadPoolExecutor() as pool:
        report.execute("SELECT count(*) FROM usage_events")
        detach = f"ALTER TABLE usage_events DETACH PARTITION {day} CONCURRENTLY"
        detached = pool.submit(ours.execute, detach.encode())
        try:
            eventually(lambda: run(database, is_waiting.format(ours.info.backend_pid)))
            eventually(lambda: run(database, is_old.format(report.info.backend_pid)))
            assert "locks" not in service.problems()
        finally:
            report.rollback()
        detached.result(30)


LOCKED, AGAIN = "another session holds a lock on usage_migrations or a table of ours", "try again when it has ended"


def test_journal_of_the_schema_that_somebody_locks(service: Service, cli: Cli, database: str) -> None:
    with psycopg.connect(database) as holder:
        # Not for ever, so that a test fails instead.
        holder.execute("SET idle_in_transaction_session_timeout = '20s'; LOCK TABLE public.usage_migrations")
        reason = f"its version cannot be read: the migration cannot go on: {LOCKED}"
        assert service.problems()["schema"] == f"{reason}: {AGAIN}"
        assert failing(json.loads(cli.run("status", "--json").stdout)) == {"schema"}
        for error_line in cli.error_lines("drain", "migrate status", "migrate verify"):
            assert f"{LOCKED}; {AGAIN}" in error_line
    assert service.problems() == {}


WRONG: dict[str, tuple[dict[str, str], set[str]]] = {
    "both servers down": (UNREACHABLE, {"redis", "postgresql"}),
    "no crontab": ({"USAGE_SCHEDULE_PURGE": "often"}, {"settings"}),
    "no database": ({"DATABASE_URL": ""}, {"postgresql"}),
    "no Redis": ({"REDIS_URL": UNREACHABLE["REDIS_URL"]}, {"redis"}),
}


def test_held_rows_of_an_entry_that_waits(service: Service, ingest_url: str, database: str) -> None:
    service.settings = service.settings.model_copy(update={"database_url": ingest_url})
    with psycopg.connect(database) as holder:
        holder.execute("UPDATE public.user_agents SET folder = 'x'")
        assert service.problems() == {}  # nothing waits for it
        service.add_old()
        seen = service.problems()
        assert seen.keys() == {"oldest_entry", "locks"}
        assert f"pid {holder.info.backend_pid}, role " in seen["locks"]
        assert "user_agents" in seen["locks"]


def test_prepared_transaction_that_holds_a_table(service: Service, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as holder:
        holder.execute("BEGIN; LOCK TABLE public.usage_daily IN SHARE MODE; PREPARE TRANSACTION 'forgotten'")
        try:
            eventually(lambda: "locks" in service.problems(), 20)
            (check,) = (it for it in service.status().problems if it.name == "locks")
            assert "a prepared transaction" in check.reason
            assert "usage_daily" in check.reason
            assert "ROLLBACK PREPARED 'forgotten'" in check.remedy
        finally:
            holder.execute("ROLLBACK PREPARED 'forgotten'")
    assert service.problems() == {}


def test_json_whatever_is_wrong(service: Service, cli: Cli, empty_database: str) -> None:
    service.settings = service.settings.model_copy(update={"database_url": empty_database})
    without_schema = service.status()
    assert failing(without_schema.as_dict()) == {"schema"}
    assert without_schema.figures.backlog
    with ThreadPoolExecutor(2) as pool:
        seen = dict(zip(WRONG, pool.map(lambda case: json_of_status(cli, case[0]), WRONG.values()), strict=True))
    for name, (_, expected) in WRONG.items():
        # The records of worker and beat are old after a while.
        assert failing(seen[name]) - {"consumer_counting", "consumer_maintenance", "beat"} == expected, name
    assert seen["no database"]["backlog"]["0"]["entries"] == 0
    assert (seen["no Redis"]["backlog"], seen["no Redis"]["totals"]["accepted"]) == (None, 0)


def failing(document: dict[str, Any]) -> set[str]:
    return {problem["check"] for problem in document["problems"] if problem["state"] == "fail"}


def json_of_status(cli: Cli, env: dict[str, str]) -> dict[str, Any]:
    changed = Cli(cli.folder)
    changed.env = cli.env | env
    done = changed.run("status", "--json")
    document: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, document["healthy"], done.stderr) == (1, False, "")
    assert list(document["checks"]) == list(CHECKS)
    assert all(problem.keys() == {"check", "state", "reason", "remedy"} for problem in document["problems"])
    assert all(problem["remedy"] and "\n" not in problem["reason"] for problem in document["problems"])
    return document
