"""The previous release as a wheel, and processes of one release or the other on the same servers."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import pytest

from tests.helpers import environment_without, eventually
from tests.integration.installed import ROOT, execute
from usage_worker.queue.processes import PROCESSES_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.harness import Harness

# The last commit before release 1.0.0 was prepared.
PREVIOUS = "60fa5b600b35ba1e785bcb2fa20fee9fcb26a40c"
PACKAGED = ("pyproject.toml", "README.md", "LICENSE", "migrations", "worker")
CELERY = ("celery", "--quiet", "-A", "usage_worker")
PUBLISH = ("python", "-m", "usage_worker.demo.publish")
# A second of traffic.
EVENTS = 1_500


class Release(NamedTuple):
    """A version of the package by the folder of its modules; None is this checkout."""

    folder: Path | None

    def variables(self) -> dict[str, str]:
        """Return what makes Python load this version; its dependencies are those of the test run."""
        return {"PYTHONPATH": str(self.folder)} if self.folder else {}


NEW = Release(None)


def install_previous(folder: Path) -> Release:
    """Build the wheel of the previous release from this repository's history, and unpack it."""
    # In containers the checkout often belongs to another user, for whom git would refuse it.
    git = ("git", "-c", "safe.directory=*", "-C", str(ROOT))
    archive = subprocess.run([*git, "archive", PREVIOUS, *PACKAGED], capture_output=True, check=False)
    if archive.returncode:
        pytest.fail(f"no commit {PREVIOUS} here, from which the upgrade is tested: git fetch --unshallow")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(folder / "source", filter="data")
    pip = (sys.executable, "-m", "pip")
    execute([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder / "source"], folder)
    (wheel,) = folder.glob("*.whl")
    execute([*pip, "install", "--quiet", "--no-deps", "--target", folder / "modules", wheel], folder)
    return Release(folder / "modules")


class Processes:
    """Processes of both releases on the servers of a harness; a context manager that kills those that are left."""

    def __init__(self, harness: Harness, folder: Path) -> None:
        self.harness = harness
        self.folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, release: Release, *command: str) -> subprocess.Popen[bytes]:
        servers = {"DATABASE_URL": self.harness.database, "REDIS_URL": self.harness.redis_url}
        environment = environment_without("USAGE_", "PYTHON") | self.harness.env | servers | release.variables()
        program = Path(sys.executable).with_name(command[0])
        with (self.folder / "processes.log").open("ab") as log:
            process = subprocess.Popen(
                [program, *command[1:]], cwd=self.folder, env=environment, stdout=log, stderr=log
            )
        self._started.append(process)
        return process

    def start_worker(self, release: Release, name: str) -> subprocess.Popen[bytes]:
        """Start a worker, and wait until it takes tasks."""
        process = self.start(release, *CELERY, "worker", "--concurrency=3", f"--hostname={name}@host")
        eventually(lambda: self.harness.redis.hexists(PROCESSES_KEY, f"{name}@host"), 40)
        return process

    def start_beat(self, release: Release) -> subprocess.Popen[bytes]:
        return self.start(release, *CELERY, "beat", "--pidfile=", f"--schedule={self.folder / 'schedule'}")

    @contextmanager
    def publishing(self, *releases: Release) -> Iterator[None]:
        """Publish from a process of each release beside the block; at its end all events are sent, and recorded."""
        first = len(self._started)
        journals = [self.folder / f"journal-{first + number}" for number in range(len(releases))]
        publishers = [
            self.start(release, *PUBLISH, str(journal), str(EVENTS), str(first + number))
            for number, (release, journal) in enumerate(zip(releases, journals, strict=True))
        ]
        yield
        assert [publisher.wait(120) for publisher in publishers] == [0] * len(publishers), self.log()
        for journal in journals:
            self.harness.record(json.loads(line) for line in journal.read_text().splitlines())

    def stop(self, *processes: subprocess.Popen[bytes]) -> None:
        """Stop processes as a deployment does: SIGTERM, after which they finish what they do."""
        for process in processes:
            process.terminate()
        assert [process.wait(120) for process in processes] == [0] * len(processes), self.log()

    def log(self) -> str:
        return (self.folder / "processes.log").read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.kill()
            process.wait()
