"""The paths that the benchmark compares with the ceiling, each timed from the first event to the last commit."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from usage_worker.bench.cpu import CpuSeconds
from usage_worker.bench.sender import sender_process
from usage_worker.bench.sql import query as bench_query
from usage_worker.errors import ProcessError
from usage_worker.local.processes import ChildProcess
from usage_worker.testing.sql import query as testing_query

if TYPE_CHECKING:
    from collections.abc import Callable

    from usage_worker.bench.environment import BenchEnvironment
    from usage_worker.bench.load import Load
    from usage_worker.local.supervisor import Supervisor
    from usage_worker.store.connection import Store

POLL_SECONDS = 0.1
TIMEOUT_SECONDS = 600.0
NAIVE_WORKER = (
    *(sys.executable, "-m", "celery", "-A", "usage_worker.bench.naive"),
    *("worker", "--concurrency", "2", "--without-gossip"),
)


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


def measure_plain_copy_rollup(environment: BenchEnvironment, load: Load) -> tuple[float, CpuSeconds]:
    """Return the seconds of the application's own COPY and roll-up, and the CPU time spent.

    The column that the roll-up searches by has no index in our schema, and needs one.

    Raises:
        ProcessError: the sender failed.
    """
    store, servers = environment.store, environment.servers
    store.execute(bench_query("index_recorded_at"))
    try:
        with sender_process("usage_worker.bench.send_plain_copy", load, environment.process_env) as sender:
            cpu_before = CpuSeconds.read(sender.pid, servers, None)
            started = sender.start()
            sender.check_done()
            seconds = time.monotonic() - started
            return seconds, CpuSeconds.read(sender.pid, servers, None) - cpu_before
    finally:
        store.execute(bench_query("drop_recorded_at_index"))


def measure_product(
    environment: BenchEnvironment, celery: Supervisor, load: Load
) -> tuple[float, CpuSeconds, list[float]]:
    """Return the seconds from the first `track()` to the last commit, the CPU time spent, and the publisher's figures.

    Raises:
        ProcessError: the publisher did not send every event, or not every event was counted in time.
    """
    store, servers = environment.store, environment.servers
    applied_before = store.intake_totals().applied
    with sender_process("usage_worker.bench.publish", load, environment.process_env) as publisher:
        cpu_before = CpuSeconds.read(publisher.pid, servers, celery)
        started = publisher.start()
        _wait_until(lambda: store.intake_totals().applied >= applied_before + load.events)
        seconds = time.monotonic() - started
        figures = publisher.check_done()
        return seconds, CpuSeconds.read(publisher.pid, servers, celery) - cpu_before, figures


def _wait_until(is_counted: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not is_counted():
        if time.monotonic() > deadline:
            raise ProcessError(f"not every event was counted within {TIMEOUT_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)


def _usage_count(store: Store) -> int:
    return sum(row["usage_count"] for row in store.rows(testing_query("counters")))
