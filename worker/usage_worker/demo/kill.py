"""The death of a worker in the middle of a batch."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from usage_worker.demo.sql import query
from usage_worker.errors import ProcessError

if TYPE_CHECKING:
    from usage_worker.store.connection import Store

WAIT_SECONDS = 30.0
POLL_SECONDS = 0.01


def kill_inside_batch(store: Store, worker: int) -> None:
    """Kill a worker and its child processes, by SIGKILL, while one of them is inside its transaction.

    The rows of all counters are locked until then: otherwise a transaction of some milliseconds might be over before
    the signal arrives.

    Args:
        store: the database.
        worker: the number of the worker's process, which leads its process group.

    Raises:
        ProcessError: no batch came.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    with store.connection() as connection:
        connection.execute(query("hold_counters"))
        while connection.execute(query("batch_waits")).fetchone() == (False,):
            if time.monotonic() > deadline:
                raise ProcessError(f"no batch was counted within {WAIT_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)
        os.killpg(worker, signal.SIGKILL)
