"""Events of child processes, of programs that end, and of publishers that nobody keeps."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import redis
from celery import Celery

from tests.helpers import eventually
from tests.integration.test_publisher import events_in
from usage_worker.service.broker import broker_settings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Valkey

# Nothing is closed or flushed, and nothing is sent before the end unless the end sends it.
HEAD = """if True:
    import os, sys, uuid
    from usage_worker import UsagePublisher
    USER, AGENT = uuid.uuid4(), uuid.uuid4()
    usage = UsagePublisher(os.environ["REDIS_URL"], linger=60)

    def track(_=None):
        return usage.track(USER, AGENT)
"""
CHILDREN = """
    import concurrent.futures, multiprocessing, threading

    def with_a_child():
        child = multiprocessing.Process(target=track)
        child.start()
        child.join()
        track()

    def until_terminated(tracked):
        track()
        tracked.set()
        threading.Event().wait()

    def main(method, kinds):
        multiprocessing.set_start_method(method)
        track()
        if "process" in kinds:
            child = multiprocessing.Process(target=with_a_child)
            child.start()
            child.join()
            assert child.exitcode == 0
        if "daemon" in kinds:
            tracked = multiprocessing.Event()
            multiprocessing.Process(target=until_terminated, args=(tracked,), daemon=True).start()
            tracked.wait()
        if "pool" in kinds:
            with multiprocessing.Pool(1) as pool:
                pool.map(track, range(2))
        if "executor" in kinds:
            with concurrent.futures.ProcessPoolExecutor(1) as pool:
                list(pool.map(track, range(2)))

    if __name__ == "__main__":
        main(sys.argv[1], sys.argv[2:])
"""


def run(folder: Path, redis_url: str, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program from a file, since `spawn` imports the main module again."""
    file = folder / "program.py"
    file.write_text(HEAD + program)
    command = [sys.executable, str(file), *arguments]
    env = os.environ | {"REDIS_URL": redis_url}
    done = subprocess.run(command, cwd=folder, env=env, check=False, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    ("method", "kinds", "events"),
    [
        ("fork", ["process", "daemon", "pool", "executor"], 8),
        # Each child of these imports everything again, which takes time.
        ("forkserver", ["pool", "executor"], 5),
        ("spawn", ["pool"], 3),
    ],
)
def test_events_of_children_arrive(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis, method: str, kinds: list[str], events: int
) -> None:
    done = run(tmp_path, redis_url, CHILDREN, method, *kinds)
    assert (events_in(redis_client), done.stderr) == (events, "")


def test_events_are_sent_at_exit_when_no_thread_can_start(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis
) -> None:
    program = """
    import atexit, resource, threading
    resource.setrlimit(resource.RLIMIT_AS, (2**33, resource.getrlimit(resource.RLIMIT_AS)[1]))
    threading.stack_size(2**40)
    atexit.register(track)
    track()
    UsagePublisher(os.environ["REDIS_URL"], linger=60).track(USER, AGENT)
    """
    done = run(tmp_path, redis_url, program)
    assert events_in(redis_client) == 3
    assert "events wait: no thread can start" in done.stderr


def test_streams_that_are_open_at_exit_are_counted(tmp_path: Path, redis_url: str, redis_client: redis.Redis) -> None:
    program = """
    chunks = usage.stream(USER, AGENT, iter([{}, {}]))
    for chunk in chunks:
        break
    if not os.fork():  # where it is the parent's
        sys.exit()
    os.wait()
    """
    assert run(tmp_path, redis_url, program).stderr == ""
    assert events_in(redis_client) == 1


def test_celery_child_sends_its_events_at_its_end(
    tmp_path: Path, valkey: Valkey, redis_url: str, redis_client: redis.Redis
) -> None:
    """A prefork child that has done its tasks is replaced, and ends without `atexit`."""
    (tmp_path / "tasks.py").write_text("""if True:
        import os, uuid
        from usage_worker import UsagePublisher
        from celery import Celery
        from usage_worker.service.broker import broker_settings

        usage = UsagePublisher(os.environ["REDIS_URL"], linger=60)
        app = Celery()
        app.conf.update(broker_settings(os.environ["OTHER_REDIS"]), task_ignore_result=True)

        @app.task
        def track():
            usage.track(uuid.uuid4(), uuid.uuid4())
    """)
    broker = valkey.url(1)
    env = os.environ | {"REDIS_URL": redis_url, "OTHER_REDIS": broker}
    options = ["worker", "--concurrency", "1", "--max-tasks-per-child", "2", "--without-gossip", "--without-mingle"]
    with redis.Redis.from_url(broker) as client:
        client.flushdb()
    with Celery(set_as_current=False) as app:
        app.conf.update(broker_settings(broker))
        for _ in range(4):
            app.send_task("tasks.track")
    with subprocess.Popen([sys.executable, "-m", "celery", "-A", "tasks", *options], env=env, cwd=tmp_path) as worker:
        try:
            eventually(lambda: events_in(redis_client) == 4, 60)
        finally:
            worker.terminate()
            worker.wait(120)
