"""The schedule with real beats and a real worker, and the command that shows it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.helpers import eventually
from tests.integration.database import run
from tests.integration.ledger import create_days, days
from tests.preloaded import start_celery
from usage_worker.maintenance.analytics import REFRESH
from usage_worker.maintenance.partitions import MANAGE_PARTITIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness

ROOT = Path(__file__).parents[2]
CELERY = (sys.executable, "-m", "celery", "-A", "usage_worker")


class Celery:
    """Celery's processes, each with a log of JSON lines."""

    def __init__(self, folder: Path, cli: Cli) -> None:
        self._folder = folder
        self._env = cli.env | {"USAGE_LOG_FORMAT": "json"}

    @contextmanager
    def running(self, name: str, *arguments: str, **env: str) -> Iterator[None]:
        with (
            (self._folder / f"{name}.log").open("wb") as log,
            start_celery(arguments, self._folder, self._env | env, log.fileno()) as process,
        ):
            try:
                yield
                assert process.poll() is None
                process.send_signal(signal.SIGTERM)
                process.wait(120)
            finally:
                process.kill()

    def lines(self) -> list[dict[str, Any]]:
        """Return the log lines of all processes, without Celery's banner and a last line that may be incomplete."""
        texts = (log.read_text().rpartition("\n")[0].splitlines() for log in self._folder.glob("*.log"))
        return [json.loads(line) for text in texts for line in text if line.startswith("{")]


def test_two_beats_run_every_task_once(harness: IngestHarness, database: str, cli: Cli, tmp_path: Path) -> None:
    create_days(database, -100)
    cli.env |= {
        "USAGE_SCHEDULE_PARTITIONS": "1",
        "USAGE_SCHEDULE_ANALYTICS": "1",
        "USAGE_FLUSH_INTERVAL": "0.2",
        "USAGE_PARTITIONS_AHEAD_DAYS": "20",
    }
    celery = Celery(tmp_path, cli)
    with ExitStack() as stack:
        stack.enter_context(celery.running("worker", "worker", "--concurrency=2"))
        for number in (1, 2):
            options = ["--pidfile=", f"--schedule={tmp_path / f'beat{number}'}"]
            stack.enter_context(celery.running(f"beat{number}", "beat", *options))
        for number in range(500):
            occurred_at = datetime.now(UTC) - timedelta(hours=number % 100)
            fields = {"event_id": uuid4(), "occurred_at": occurred_at, "tokens": number}
            harness.publish({"user_id": harness.users[number % 20], "agent_id": harness.agents[0], **fields})
        eventually(lambda: harness.resources.store.intake_totals().accepted == 500, 60)
        runs = "SELECT finished_at FROM usage_task_runs WHERE task = %s"
        first = eventually(lambda: run(database, runs, MANAGE_PARTITIONS), 30)
        eventually(lambda: run(database, runs, MANAGE_PARTITIONS) != first, 30)
        counted = "SELECT sum(usage_count) FROM user_agent_analytics"
        eventually(lambda: run(database, counted) == [(500,)], 30)
    harness.check()
    lines = celery.lines()
    assert [line for line in lines if line["level"] not in ("debug", "info")] == []
    assert any(line["event"] == REFRESH and line["refreshed"] for line in lines)
    reports = [line for line in lines if line["event"] == MANAGE_PARTITIONS]
    created = [partition for report in reports for partition in report["created"] if "events" in partition]
    assert sorted(created) == days(*range(8, 21))
    assert [partition for report in reports for partition in report["dropped"]] == days(-100)


def test_long_tasks_have_separate_queue(harness: IngestHarness, database: str, cli: Cli, tmp_path: Path) -> None:
    """A worker of the queue `celery` does not execute the tasks of the queue `maintenance`."""
    cli.env |= {"USAGE_SCHEDULE_PARTITIONS": "1", "USAGE_FLUSH_INTERVAL": "0.2"}
    celery = Celery(tmp_path, cli)
    now = datetime.now(UTC)
    harness.publish(
        {"user_id": harness.users[0], "agent_id": harness.agents[0], "event_id": uuid4(), "occurred_at": now}
    )
    with (
        celery.running("worker", "worker", "--queues=celery", "--concurrency=1"),
        celery.running("beat", "beat", "--pidfile=", f"--schedule={tmp_path / 'beat'}"),
    ):
        eventually(lambda: harness.resources.store.intake_totals().accepted == 1, 60)
        eventually(lambda: harness.redis.llen("maintenance"), 30)
        assert run(database, "SELECT FROM usage_task_runs") == []
        with celery.running("maintenance", "worker", "--queues=maintenance", "--concurrency=1", "--hostname=m@%h"):
            eventually(lambda: run(database, "SELECT 1 FROM usage_task_runs"), 60)


def test_failed_task_is_logged(empty_database: str, redis_url: str, cli: Cli, tmp_path: Path) -> None:
    cli.env |= {"DATABASE_URL": empty_database, "USAGE_SCHEDULE_PARTITIONS": "1"}
    celery = Celery(tmp_path, cli)
    with (
        celery.running("worker", "worker", "--queues=maintenance", "--concurrency=1"),
        celery.running("beat", "beat", "--pidfile=", f"--schedule={tmp_path / 'beat'}"),
    ):
        eventually(lambda: [line for line in celery.lines() if line["event"] == "a task failed"], 60)
    recorded = next(line for line in celery.lines() if line["event"] == "a task failed")
    assert (recorded["task"], recorded["level"]) == (MANAGE_PARTITIONS, "warning")
    assert "usage-worker migrate up" in recorded["reason"]


@pytest.mark.parametrize(
    ("name", "variable", "value"),
    [
        ("worker", "USAGE_SCHEDULE_PARTITIONS", "daily"),
        ("beat", "USAGE_TIMEZONE", "Europe/Nowhere"),
        ("beat", "USAGE_FLUSH_INTERVAL", "inf"),
        ("worker", "USAGE_RETENTION_DAYS", "35"),  # not longer than the acceptance window
    ],
)
def test_no_process_starts_with_invalid_schedule(cli: Cli, name: str, variable: str, value: str) -> None:
    cli.env[variable] = value
    done = subprocess.run(
        [*CELERY, name], cwd=ROOT, env=cli.env, stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert variable in done.stderr
    assert variable in cli.error_line("schedule")


def test_command_shows_schedule_and_last_runs(cli: Cli) -> None:
    cli.env |= {"USAGE_SCHEDULE_PARTITIONS": "30 3 * * *", "USAGE_TIMEZONE": "Asia/Kolkata"}
    assert cli.run("run", "partitions").returncode == 0
    shown = json.loads(cli.run("schedule", "--json").stdout)
    assert shown["timezone"] == "Asia/Kolkata"
    lines = {line["name"]: line for line in shown["schedule"]}
    assert lines["flush-1"] | {"task": "usage.flush", "when": "every 10 s", "last_run": None} == lines["flush-1"]
    partitions_task = lines["partitions"]
    assert (partitions_task["task"], partitions_task["when"]) == (MANAGE_PARTITIONS, "30 3 * * *")
    due = datetime.fromisoformat(partitions_task["next_run"])
    assert partitions_task["next_run"].endswith("T03:30:00+05:30")
    assert timedelta() < due - datetime.now(UTC) <= timedelta(days=1)
    assert datetime.now(UTC) - datetime.fromisoformat(partitions_task["last_run"]) < timedelta(minutes=1)
    assert partitions_task["figures"]["ahead_days"]["usage_events"] == 7
    rows = [line.split("\t") for line in cli.run("schedule").stdout.splitlines()]
    assert {len(row) for row in rows} == {7}
    assert ["partitions", MANAGE_PARTITIONS, "30 3 * * *"] in [row[:3] for row in rows]


def test_command_needs_no_database(cli: Cli) -> None:
    cli.env |= {"DATABASE_URL": "postgresql://somebody@127.0.0.1:1/usage", "USAGE_SCHEDULE_PARTITIONS": "off"}
    done = cli.run("schedule")
    assert done.returncode == 0
    assert "PostgreSQL is not available" in done.stderr
    assert f"partitions\t{MANAGE_PARTITIONS}\toff\t\t\t\t-" in done.stdout
