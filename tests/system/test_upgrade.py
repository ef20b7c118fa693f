"""An upgrade without a stop: the previous release and this one side by side, exact at the end.

A part of `make test-more`. The order is that of docs/deploy.md: schema, workers, beat, publishers; and the way back.
"""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.faults.harness import Harness
from tests.helpers import eventually
from tests.integration.installed import execute
from tests.system.previous import NEW, Processes, Release, install_previous
from usage_worker.migrate import Runner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """Return the previous release, whose code its processes really load."""
    folder = tmp_path_factory.mktemp("previous")
    release = install_previous(folder)
    program = [sys.executable, "-c", "import usage_worker; print(usage_worker.__file__)"]
    assert execute(program, folder, **release.variables()).startswith(str(release.folder))
    return release


@pytest.fixture
def previous_schema(previous: Release, empty_database: str, tmp_path: Path) -> str:
    """Return the URL of a database whose schema the previous release made."""
    command = [sys.executable, "-m", "usage_worker", "migrate", "up"]
    execute(command, tmp_path, DATABASE_URL=empty_database, **previous.variables())
    return empty_database


@pytest.fixture
def processes(previous_schema: str, redis_url: str, tmp_path: Path) -> Iterator[Processes]:
    with closing(Harness(previous_schema, redis_url)) as harness, Processes(harness, tmp_path) as processes:
        yield processes


def check_counted(processes: Processes) -> None:
    """Wait until what was sent is counted by whoever runs, and compare every total with the oracle."""
    eventually(processes.harness.settled, 40)
    processes.harness.check()


def test_new_workers_count_on_previous_schema(previous: Release, processes: Processes) -> None:
    processes.start_beat(NEW)
    with processes.publishing(previous, NEW):
        processes.start_worker(NEW, "new")
    check_counted(processes)


def test_rolling_upgrade_and_rollback_under_traffic(previous: Release, processes: Processes) -> None:
    """Publishers send during each step; those workers that run then count all of it before the next step.

    The first step has previous workers on the new schema, the last one those that find what newer workers left.
    """
    old_worker, old_beat = processes.start_worker(previous, "old"), processes.start_beat(previous)
    with processes.publishing(previous, previous):
        Runner(processes.harness.database).up()
    check_counted(processes)

    with processes.publishing(previous, NEW):
        new_worker = processes.start_worker(NEW, "new")
        processes.stop(old_worker, old_beat)
        new_beat = processes.start_beat(NEW)
    check_counted(processes)

    with processes.publishing(previous, NEW):
        processes.start_worker(previous, "old again")
        processes.stop(new_worker, new_beat)
        processes.start_beat(previous)
    check_counted(processes)
