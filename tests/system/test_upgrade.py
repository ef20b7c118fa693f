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


def test_releases_take_turns_under_traffic(previous: Release, processes: Processes) -> None:
    """Publishers of both releases send during each step; those workers that run then count all of it before the next.

    New workers on the previous schema; previous ones on the new schema, which find what newer ones left in Redis; then
    the upgrade in the documented order.
    """
    new_worker, new_beat = processes.start_worker(NEW, "early"), processes.start_beat(NEW)
    with processes.publishing(previous, NEW):
        pass
    check_counted(processes)

    with processes.publishing(previous, NEW):
        Runner(processes.harness.database).up()
        old_worker = processes.start_worker(previous, "old")
        processes.stop(new_worker, new_beat)
        old_beat = processes.start_beat(previous)
    check_counted(processes)

    with processes.publishing(previous, NEW):
        processes.start_worker(NEW, "new")
        processes.stop(old_worker, old_beat)
        processes.start_beat(NEW)
    check_counted(processes)
