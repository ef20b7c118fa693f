"""The common part of periodic tasks: one process at a time executes a task, and its last run is recorded."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.commands import Cli
from tests.integration.database import run
from usage_worker.errors import BusyError, DataRefusedError
from usage_worker.maintenance.anomalies import ANOMALIES
from usage_worker.maintenance.graph import GRAPH
from usage_worker.maintenance.pruning import PRUNE
from usage_worker.maintenance.purge import PURGE, run_purge
from usage_worker.maintenance.quality import QUALITY
from usage_worker.maintenance.reconcile import RECONCILE
from usage_worker.maintenance.task_run import run_task
from usage_worker.settings import Settings
from usage_worker.store.connection import Store
from usage_worker.store.task_runs import last_runs, sole_transaction

if TYPE_CHECKING:
    from pathlib import Path

PURGE_WITHOUT_WAITING = """
import importlib
importlib.import_module("usage_worker.cli.run.purge").WAIT_TIMEOUT_SECONDS = 0.0
importlib.import_module("usage_worker.cli").main()
"""

DUE = """
    INSERT INTO auth.users (email) VALUES ('u');
    INSERT INTO public.agents (name) VALUES ('a');
    INSERT INTO public.user_agents (user_id, agent_id, deleted_at)
    SELECT u.id, a.id, now() - interval '40 days' FROM auth.users u, public.agents a
"""


@dataclass(frozen=True)
class SweepReport:
    rows: int

    def as_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}


def test_only_one_process_at_a_time_runs_task(database: str) -> None:
    with Store(database) as one, Store(database) as other:
        with sole_transaction(one, "sweep"):
            with pytest.raises(BusyError), sole_transaction(other, "sweep"):
                pass
            with sole_transaction(other, "another"):
                pass
        with sole_transaction(other, "sweep"):
            pass


def test_lock_is_released_when_transaction_fails(database: str) -> None:
    with Store(database) as one, Store(database) as other:
        with pytest.raises(DataRefusedError), sole_transaction(one, "sweep") as connection:
            connection.execute("SELECT 1 / 0")
        with sole_transaction(other, "sweep"):
            pass


def test_last_run_is_recorded_with_its_figures(database: str) -> None:
    with Store(database) as store:
        run_task(store, "sweep", lambda: SweepReport(1))
        figures = run_task(store, "sweep", lambda: SweepReport(2))
        run = last_runs(store)["sweep"]
    assert (figures["rows"], run.report, run.seconds) == (2, {"rows": 2}, figures["seconds"])


def test_busy_run_is_not_recorded(database: str) -> None:
    def refused() -> SweepReport:
        with sole_transaction(second, "sweep"):
            return SweepReport(1)

    with Store(database) as first, Store(database) as second:
        with sole_transaction(first, "sweep"):
            assert run_task(second, "sweep", refused) == {"busy": True}
        assert not last_runs(first)


def test_purge_that_finds_another_at_work_is_not_recorded(database: str) -> None:
    with Store(database) as first, Store(database) as second:
        assert run_purge(second, Settings())["purged"] == 0
        recorded = last_runs(first)[PURGE]
        run(database, DUE)
        with sole_transaction(first, PURGE):
            assert run_purge(second, Settings()) == {"busy": True}
        assert last_runs(first)[PURGE] == recorded
        assert run_purge(second, Settings())["purged"] == 1


def test_commands_record_their_runs(database: str, redis_url: str, tmp_path: Path) -> None:
    cli = Cli(tmp_path, DATABASE_URL=database, REDIS_URL=redis_url)
    with Store(database) as store:
        cli.run("run", "purge", "--dry-run")
        assert not last_runs(store)
        for command, task, figures in (
            ("purge", PURGE, {"purged": 0, "remaining": 0}),
            ("reconcile", RECONCILE, {"checked": 0, "different": 0, "complete": True}),
            ("graph", GRAPH, {"changed_users": 0, "different": 0}),
            ("anomalies", ANOMALIES, {"agents": 0, "open": 0}),
            ("quality", QUALITY, {"agents": 0}),
            ("dead-letters", PRUNE, {"deleted": 0, "deleted_ids": 0}),
        ):
            assert cli.run("run", command).returncode == 0
            assert figures.items() <= last_runs(store)[task].report.items()


def test_command_that_times_out_fails_and_is_not_recorded(database: str, redis_url: str, tmp_path: Path) -> None:
    cli = Cli(tmp_path, DATABASE_URL=database, REDIS_URL=redis_url)
    with Store(database) as store:
        with sole_transaction(store, PURGE):
            done = subprocess.run(
                [sys.executable, "-c", PURGE_WITHOUT_WAITING, "run", "purge"],
                cwd=tmp_path,
                env=cli.env,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"usage-worker: another process is doing this already: {PURGE}\n"
        assert not last_runs(store)
