"""The three paths that the benchmark compares, each timed from the first event to the last commit."""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from uuid_utils.compat import uuid7

from usage_worker.bench.bare_copy import bare_copy
from usage_worker.bench.meter import cpu_seconds
from usage_worker.bench.sender import sender_process
from usage_worker.errors import ProcessError
from usage_worker.local.processes import ChildProcess
from usage_worker.store.queries import query
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from usage_worker.bench.environment import BenchEnvironment
    from usage_worker.bench.load import Load
    from usage_worker.local.servers import Servers
    from usage_worker.local.supervisor import Supervisor
    from usage_worker.store import Store

POLL_SECONDS = 0.1
TIMEOUT_SECONDS = 600.0
NAIVE_WORKER = (
    *(sys.executable, "-m", "celery", "-A", "usage_worker.bench.naive"),
    *("worker", "--concurrency", "2", "--without-gossip"),
)


@dataclass(frozen=True, slots=True)
class CpuSeconds:
    """CPU seconds of the publisher, of the workers and of PostgreSQL."""

    publisher: float
    worker: float
    database: float


def measure_ceiling(store: Store, events: list[dict[str, Any]], *, prepared: bool) -> float:
    """Return the seconds of a binary COPY of the events into the ledger, and of nothing else.

    Args:
        store: the database.
        events: what `Load.generate` yields.
        prepared: whether the rows are made before the clock starts. Otherwise it starts with the events, as it does
            for the other paths, and the bound is less strict.
    """
    now = datetime.now(UTC)
    rows: Iterable[tuple[Any, ...]] = (_ledger_row(event, now) for event in events)
    rows = list(rows) if prepared else rows
    store.rows(query("ensure_day"), day=now.date())
    gc.freeze()  # otherwise the garbage collector would traverse all events again and again
    started = time.monotonic()
    bare_copy(store, rows)
    return time.monotonic() - started


def measure_naive(environment: BenchEnvironment, load: Load) -> float:
    """Return the seconds of one Celery task per event, with two worker processes.

    Raises:
        ProcessError: the sender failed, or not every event was counted in time.
    """
    env = environment.process_env
    worker = ChildProcess("naive", NAIVE_WORKER, env=env, log=environment.folder / "naive.log")
    try:
        with sender_process("usage_worker.bench.send_naive", load, env) as sender:
            started = sender.start()
            _wait_until(lambda: _usage_count(environment.store) >= load.events)
            return time.monotonic() - started
    finally:
        worker.stop(10)


def measure_product(environment: BenchEnvironment, celery: Supervisor, load: Load) -> tuple[float, CpuSeconds]:
    """Return the seconds from the first `track()` to the last commit, and the CPU time spent.

    Raises:
        ProcessError: the publisher did not send every event, or not every event was counted in time.
    """
    store, servers = environment.store, environment.servers
    applied_before = store.intake_totals().applied
    with sender_process("usage_worker.bench.publish", load, environment.process_env) as publisher:
        cpu_before = _cpu_seconds(publisher.pid, servers, celery)
        started = publisher.start()
        _wait_until(lambda: store.intake_totals().applied >= applied_before + load.events)
        seconds = time.monotonic() - started
        publisher.check_done()
        cpu_after = _cpu_seconds(publisher.pid, servers, celery)
    return seconds, CpuSeconds(*(after - before for after, before in zip(cpu_after, cpu_before, strict=True)))


def _cpu_seconds(publisher: int, servers: Servers, celery: Supervisor) -> tuple[float, float, float]:
    workers = sum(cpu_seconds(pid) for name, pid in celery.pids.items() if name.startswith("worker"))
    return cpu_seconds(publisher), workers, cpu_seconds(servers.pids["PostgreSQL"] or 0)


def _wait_until(is_counted: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not is_counted():
        if time.monotonic() > deadline:
            raise ProcessError(f"not every event was counted within {TIMEOUT_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)


def _usage_count(store: Store) -> int:
    return sum(row["usage_count"] for row in store.rows(testing_query("counters")))


def _ledger_row(event: dict[str, Any], now: datetime) -> tuple[Any, ...]:
    """Return the values of the ledger's columns, adding an identity, a time and the sum of the tokens."""
    input_tokens, output_tokens = event["input_tokens"], event["output_tokens"]
    return (
        *(uuid7(), now, "usage", event["user_id"], event["agent_id"], event["messages"]),
        *(input_tokens, output_tokens, input_tokens + output_tokens, event["cost_usd"], event["response_time_ms"]),
        *(event["success"], event["conversation_id"], event["model"], None),
    )
