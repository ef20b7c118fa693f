"""The three paths that the benchmark compares, each from the first event to the last commit."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO, cast

from uuid_utils.compat import uuid7

from usage_worker.bench.bare_copy import bare_copy
from usage_worker.bench.meter import cpu_seconds
from usage_worker.errors import ProcessError
from usage_worker.local.processes import ChildProcess
from usage_worker.store.queries import query
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from usage_worker.bench.load import Load
    from usage_worker.local.servers import Servers
    from usage_worker.local.supervisor import Supervisor
    from usage_worker.store import Store

POLL_SECONDS = 0.1
TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class CpuSeconds:
    """CPU seconds of the publisher, of the workers and of PostgreSQL."""

    publisher: float
    worker: float
    database: float


def ceiling(store: Store, events: list[dict[str, Any]], *, prepared: bool) -> float:
    """(a) Seconds that a binary COPY of the events into the ledger takes; nothing else is done.

    It begins with the events, as the other paths do, or, stricter, with rows that were `prepared` beforehand.
    """
    now = datetime.now(UTC)
    rows: Iterable[tuple[Any, ...]] = (_row(event, now) for event in events)
    rows = list(rows) if prepared else rows
    store.rows(query("ensure_day"), day=now.date())
    gc.freeze()  # the collector would look through all of them again and again
    started = time.monotonic()
    bare_copy(store, rows)
    return time.monotonic() - started


def naive(store: Store, servers: Servers, load: Load, log: Path) -> float:
    """(b) Seconds that one Celery task an event takes, two worker processes."""
    env = os.environ | {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url}
    celery = [sys.executable, "-m", "celery", "-A", "usage_worker.bench.naive"]
    worker = [*celery, "worker", "--concurrency", "2", "--without-gossip"]
    sender = [sys.executable, "-m", "usage_worker.bench.send_naive", *load.arguments()]
    child = ChildProcess("naive", worker, env=env, log=log)
    try:
        with _waiting(sender, env) as process:
            started = _go(process)
            _await(lambda: _counted(store) >= load.events)
            return time.monotonic() - started
    finally:
        child.stop(10)


def product(store: Store, servers: Servers, stack: Supervisor, load: Load) -> tuple[float, CpuSeconds]:
    """(c) Seconds from the first `track()` to the last commit, and what it cost."""
    env = os.environ | {"DATABASE_URL": servers.database_url, "REDIS_URL": servers.redis_url}
    command = [sys.executable, "-m", "usage_worker.bench.publish", *load.arguments()]
    before = store.intake_totals().applied
    with _waiting(command, env) as publisher:
        used = _usage(publisher.pid, servers, stack)
        started = _go(publisher)
        _await(lambda: store.intake_totals().applied >= before + load.events)
        seconds = time.monotonic() - started
        if (last := cast("TextIO", publisher.stdout).readline().strip()) != "done":
            raise ProcessError(f"the publisher did not send everything: {last}")
        spent = [after - earlier for after, earlier in zip(_usage(publisher.pid, servers, stack), used, strict=True)]
    return seconds, CpuSeconds(*spent)


def _usage(publisher: int, servers: Servers, stack: Supervisor) -> tuple[float, float, float]:
    workers = sum(cpu_seconds(pid) for name, pid in stack.pids.items() if name.startswith("worker"))
    return cpu_seconds(publisher), workers, cpu_seconds(servers.pids["PostgreSQL"] or 0)


@contextmanager
def _waiting(command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A sender that has prepared its events and waits for the word."""
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            if cast("TextIO", process.stdout).readline().strip() != "ready":
                raise ProcessError(f"{command[2]} did not get ready")
            yield process
        finally:
            process.kill()


def _go(process: subprocess.Popen[str]) -> float:
    started = time.monotonic()
    cast("TextIO", process.stdin).write("go\n")
    cast("TextIO", process.stdin).flush()
    return started


def _await(is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not is_done():
        if time.monotonic() > deadline:
            raise ProcessError(f"not everything was counted within {TIMEOUT_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)


def _counted(store: Store) -> int:
    return sum(row["usage_count"] for row in store.rows(testing_query("counters")))


def _row(event: dict[str, Any], now: datetime) -> tuple[Any, ...]:
    """The event's values in the order of the ledger, with an identity, a time and the sum of its tokens."""
    tokens_in, tokens_out = event["input_tokens"], event["output_tokens"]
    return (
        *(uuid7(), now, "usage", event["user_id"], event["agent_id"], event["messages"]),
        *(tokens_in, tokens_out, tokens_in + tokens_out, event["cost_usd"], event["response_time_ms"]),
        *(event["success"], event["conversation_id"], event["model"], None),
    )
