"""Commands in real processes, and events for them."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.helpers import environment_without, free_port
from tests.preloaded import preloaded
from usage_worker.publisher import UsagePublisher
from usage_worker.publisher.field_mapping import FieldMapping
from usage_worker.publisher.file_import import ImportReport, publish_file
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PROGRAM = str(Path(sys.executable).with_name("usage-worker"))
SECRET = "s3cretword"
NOW = datetime.now(UTC)
UNMAPPED = FieldMapping({}, {})


class Cli:
    """`usage-worker` in an empty folder, without the settings of the test run."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        # pytest names the stage of the present test in a variable, which differs between a fixture and its test.
        self.env = environment_without("USAGE_", "DATABASE", "REDIS", "PYTEST_") | env

    def run(
        self, *arguments: str, stdin: bytes = b"", program: Sequence[str] = (PROGRAM,)
    ) -> subprocess.CompletedProcess[str]:
        command = [*program, *arguments]
        if program == (PROGRAM,) and self._has_only_settings():
            done = preloaded().run(command, self.folder, self.env, stdin)
        else:
            done = subprocess.run(
                command, cwd=self.folder, env=self.env, input=stdin, capture_output=True, timeout=60, check=False
            )
        output, errors = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in errors, errors
        assert SECRET not in output + errors
        return subprocess.CompletedProcess(done.args, done.returncode, output, errors)

    def _has_only_settings(self) -> bool:
        """Return whether Python and the packages start as in the test run: they read other variables than ours."""
        changed = dict(self.env.items() - os.environ.items())
        return all(name.startswith(("USAGE_", "DATABASE_", "REDIS_", "PG")) for name in changed)

    def on_terminal(
        self,
        answer: str,
        *arguments: str,
        meanwhile: Callable[[], object] | None = None,
        errors: int = subprocess.STDOUT,
    ) -> tuple[int, str]:
        """Run a command as on a terminal; return its exit code and what it printed.

        `meanwhile` is called between its question and the answer; `errors` is where its standard error goes.
        """
        ours, its = pty.openpty()
        process = subprocess.Popen(
            [PROGRAM, *arguments],
            cwd=self.folder,
            env=self.env,
            stdin=its,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        os.close(its)
        asked = b""
        if meanwhile:
            assert process.stdout
            while b"[y/N]" not in asked:
                asked += os.read(process.stdout.fileno(), 1_000) or pytest.fail(f"no question: {asked!r}")
            meanwhile()
        os.write(ours, answer.encode())
        output, _ = process.communicate(timeout=60)
        os.close(ours)
        return process.returncode, (asked + output).decode()

    def error_lines(self, *commands: str) -> list[str]:
        """Run commands that must fail, concurrently because each starts slowly; return their error lines."""
        preloaded()  # once, not in each thread
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self.error_line, commands))

    def error_line(self, command: str) -> str:
        """Run a command that must fail with exactly one line on standard error, and return the line."""
        done = self.run(*command.split())
        assert done.returncode == 1, done
        assert not done.stdout
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("usage-worker: ")
        return lines[0]

    def drained(self) -> dict[str, int]:
        """Run `drain --json` and return its figures, summed over all shards."""
        done = self.run("drain", "--json")
        assert done.returncode == 0, done.stderr
        shards = json.loads(done.stdout)
        assert [shard["shard"] for shard in shards] == [0, 1]
        return {key: sum(shard[key] for shard in shards) for key in ("applied", "duplicate", "quarantined", "left")}


def events(count: int, **fields: object) -> str:
    """Return NDJSON of events of one pair, one second apart."""
    pair = {"user_id": str(uuid4()), "agent_id": str(uuid4())}
    times = ((NOW - timedelta(seconds=count - number)).isoformat() for number in range(count))
    return "".join(json.dumps(pair | {"occurred_at": when} | fields) + "\n" for when in times)


def send(redis_url: str, count: int) -> None:
    """Publish events from this process, which is faster than a command."""
    with UsagePublisher(redis_url, linger=0) as publisher:
        for line in events(count).splitlines():
            assert publisher.add(json.loads(line))
        assert publisher.flush()


def send_file(
    publisher: UsagePublisher,
    text: str,
    mapping: FieldMapping = UNMAPPED,
    *,
    is_csv: bool = False,
    days: int | None = None,
) -> tuple[ImportReport, list[str]]:
    """Publish a file from this process, which is faster than a command; with `days`, as a backfill.

    Returns the report, and a line for each bad line.
    """
    bad: list[str] = []
    report = publish_file(
        publisher,
        io.StringIO(text, newline=""),
        mapping,
        Settings().accept_window,
        lambda number, error: bad.append(f"line {number}: {error}"),
        is_csv=is_csv,
        backfill_days=days,
    )
    return report, bad


def figures(applied: int = 0, duplicate: int = 0, quarantined: int = 0, left: int = 0) -> dict[str, int]:
    return {"applied": applied, "duplicate": duplicate, "quarantined": quarantined, "left": left}


@contextmanager
def served_metrics(cli: Cli) -> Iterator[str]:
    """Run `usage-worker metrics` as a server and yield its address, at which it answers soon."""
    port = free_port()
    with subprocess.Popen([PROGRAM, "metrics", "--port", str(port)], cwd=cli.folder, env=cli.env) as process:
        try:
            yield f"http://127.0.0.1:{port}/metrics"
            process.terminate()
            assert process.wait(120) == 0
        finally:
            process.kill()
