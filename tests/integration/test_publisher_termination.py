"""Events of processes that SIGTERM ends, or does not end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers import eventually
from tests.integration.test_publisher import events_in, hanging_server
from tests.integration.test_publisher_processes import HEAD, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

# As a program has them; whoever runs the tests in the background may ignore them.
NOT_IGNORED = """
import signal
for number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
"""
HANDLERS = """
    import asyncio, mmap, signal, threading, time

    def die(number, _):
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def wait():
        print("ready", flush=True)
        while True:  # Python runs a handler after a whole sleep if its signal comes just before that begins
            time.sleep(0.05)
"""


@contextmanager
def running(folder: Path, redis_url: str, program: str) -> Iterator[Any]:
    """Run a program, which is ready when it prints its first line, until the block ends."""
    file = folder / "program.py"
    file.write_text(NOT_IGNORED + HEAD + HANDLERS + program)
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    env = os.environ | {"REDIS_URL": redis_url}
    with subprocess.Popen([sys.executable, file], cwd=folder, env=env, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "ready\n", process.communicate()[1]
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    "program",
    [
        "track(); wait()",
        "signal.signal(signal.SIGTERM, die); usage.track(USER, AGENT); wait()",
        "signal.signal(signal.SIGTERM, die); UsagePublisher(os.environ['REDIS_URL'], linger=60); "
        "threading.Thread(target=track).start(); wait()",
    ],
    ids=["no handler", "handler after the publisher", "handler before the publisher, event in a thread"],
)
def test_sigterm_that_ends_the_process_sends_first(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis, program: str
) -> None:
    with running(tmp_path, redis_url, f"\n    {program}\n") as process:
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors, events_in(redis_client)) == (-signal.SIGTERM, "", 1)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
@pytest.mark.parametrize(
    ("program", "sent"),
    [
        ("track(); wait()", 1),
        ("signal.signal(signal.SIGTERM, die); track(); wait()", 1),
        ("signal.signal(number, lambda *_: print('handled', flush=True)); track(); wait()", 0),
    ],
    ids=["no handler", "handler of SIGTERM", "handler of the application"],
)
def test_other_signals_that_end_the_process_send_first(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis, number: signal.Signals, program: str, sent: int
) -> None:
    with running(tmp_path, redis_url, f"\n    number = {int(number)}\n    {program}\n") as process:
        process.send_signal(number)
        if sent:
            assert process.wait(30) == -number
        else:
            assert process.stdout.readline() == "handled\n"
        assert events_in(redis_client) == sent


def test_sigterm_while_events_are_buffered(tmp_path: Path, redis_url: str, redis_client: redis.Redis) -> None:
    """It may interrupt what has buffered half of an event; then this is completed first."""
    counter = tmp_path / "counter"
    counter.write_bytes(bytes(8))
    program = f"""
    with open({str(counter)!r}, "r+b") as file:
        accepted = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")
    print("ready", flush=True)
    while track():
        accepted[0] += 1
    """
    with running(tmp_path, redis_url, program) as process:
        eventually(lambda: events_in(redis_client) > 0)
        process.terminate()
        assert process.wait(120) == -signal.SIGTERM
    accepted = int.from_bytes(counter.read_bytes(), sys.byteorder)
    assert accepted <= events_in(redis_client) <= accepted + 1


def test_second_sigterm_ends_the_process_while_redis_hangs(tmp_path: Path) -> None:
    with hanging_server() as url, running(tmp_path, url, "\n    track(); wait()\n") as process:
        assert _catches_sigterm(process.pid)
        process.terminate()
        eventually(lambda: not _catches_sigterm(process.pid))
        process.terminate()
        _, errors = process.communicate(timeout=30)
    # Nothing dropped in order after the seconds that the first one would have waited.
    assert (process.returncode, errors) == (-signal.SIGTERM, "")


def _catches_sigterm(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def test_process_that_handles_sigterm_goes_on_and_sends_at_once(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis
) -> None:
    program = """
    def installed():
        return signal.getsignal(signal.SIGTERM)

    for _ in range(2):
        signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
        track()
        usage.flush()
    handler = installed()
    signal.signal(signal.SIGTERM, handler)
    track()
    assert installed() is handler
    print("ready", flush=True)
    for line in sys.stdin:
        track()
    """
    with running(tmp_path, redis_url, program) as process:
        for _ in range(2):
            process.terminate()
            assert process.stdout.readline() == "handled\n"
            assert events_in(redis_client) == 3
        process.stdin.write("now\n")
        process.stdin.flush()
        eventually(lambda: events_in(redis_client) == 4)


def test_signal_handler_of_asyncio_works(tmp_path: Path, redis_url: str, redis_client: redis.Redis) -> None:
    """The events are sent before it runs."""
    program = """
    async def main():
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        track()
        print("ready", flush=True)
        await stopped.wait()
        os._exit(7)

    asyncio.run(main())
    """
    with running(tmp_path, redis_url, program) as process:
        process.terminate()
        assert process.wait(120) == 7
    assert events_in(redis_client) == 1


def test_sigterm_is_left_alone_where_nothing_could_be_sent(tmp_path: Path, redis_url: str) -> None:
    program = """
    import ctypes, signal, sys, threading
    from usage_worker import testing

    def publish():
        return UsagePublisher("redis://localhost/0").track(USER, AGENT)

    def handler():
        return signal.getsignal(signal.SIGTERM)

    assert handler() is not signal.SIG_DFL
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    publish()
    assert handler() is signal.SIG_IGN
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    UsagePublisher(disabled=True).track(USER, AGENT)
    with testing.capture():
        publish()
    thread = threading.Thread(target=publish)
    thread.start()
    thread.join()
    assert handler() is signal.SIG_DFL
    in_c = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: None)
    ctypes.CDLL(None).signal(signal.SIGTERM, in_c)
    publish()
    assert handler() is signal.SIG_DFL
    opened = []
    sys.addaudithook(lambda event, given: opened.append(given[0]) if event == "open" else None)
    publish()
    assert [path for path in opened if "status" in str(path)] == []  # no file is read for each event
    os._exit(0)
    """
    run(tmp_path, redis_url, program)
