"""Results of a pool's processes are read whole, and a worker that has failed ends."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers import eventually
from usage_worker.service import pool_results
from usage_worker.service.pool_results import WholeResults

if TYPE_CHECKING:
    import redis

# Two tasks of a pool of two: one writes what is no result, as a worker sees it that has lost the beginning of one. Both
# last longer than the test: a worker that waits for its pool would not end.
PROGRAM = """
import os, struct, sys, time
from billiard.pool import Worker
from usage_worker.service import pool_results
from usage_worker.service.app import create_app

pool_results.END_SECONDS = 1.0
app = create_app()

@app.task(name="last")
def last():
    time.sleep(600)

@app.task(name="spoil")
def spoil():
    frame = sys._getframe()
    while not isinstance(frame.f_locals.get("self"), Worker):
        frame = frame.f_back
    os.write(frame.f_locals["self"].outq._writer.fileno(), struct.pack(">i", 4) + bytes(4))
    time.sleep(600)

app.send_task("last")
app.send_task("spoil")
app.worker_main(["worker", "--concurrency=2", "--without-mingle", "--without-gossip"])
"""


def reading(fd: int, results: list[Any]) -> Any:
    """Return what reads one result from a pipe, as the event loop of a worker does."""
    handler = WholeResults.__new__(WholeResults)
    handler.handle_event = None
    return handler._recv_message(lambda *_: None, fd, results.append)


@pytest.fixture
def pipe() -> Any:
    ends = os.pipe()
    os.set_blocking(ends[0], False)
    yield ends
    for end in ends:
        os.close(end)


def test_result_that_comes_in_parts_is_read_at_once(pipe: tuple[int, int]) -> None:
    """The event loop would forget the first part, were it made anew in between."""
    body, results = pickle.dumps("x" * 30_000), list[Any]()
    os.write(pipe[1], struct.pack(">i", len(body)) + body[:100])
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(next, reading(pipe[0], results), "whole")
        eventually(read.running)
        os.write(pipe[1], body[100:])
        assert read.result(30) == "whole"
    assert results == ["x" * 30_000]


def test_result_without_its_end_keeps_no_worker(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_results, "_REST_SECONDS", 0.01)
    results = list[Any]()
    reader = reading(pipe[0], results)
    os.write(pipe[1], struct.pack(">i", 100) + b"x")
    assert next(reader, "whole") is None
    assert next(reader, "whole") is None
    assert results == []


def test_worker_that_has_failed_ends(database: str, redis_url: str, redis_client: redis.Redis) -> None:
    servers = {"DATABASE_URL": database, "REDIS_URL": redis_url}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | servers,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Unrecoverable error" in ended.stderr
    assert ended.returncode == 1
