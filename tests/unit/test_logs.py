"""Log lines as processes write them: nothing from outside is raw, every line of JSON is an object, repeats are few."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.helpers import environment_without
from tests.hostile import HOSTILE, LONG, check_shown
from usage_worker.logs.repeats import RepeatFilter
from usage_worker.publisher.rate_limited_log import RateLimitedLog, say
from usage_worker.publisher.rate_limited_log import log as publisher_log

if TYPE_CHECKING:
    import pytest

PRELUDE = """
import json, logging, sys, threading, warnings
from usage_worker.logs import bind_to_lines, configure_logs, get_logger, pass_on, unbind_from_lines
from usage_worker.settings import load_settings
configure_logs(load_settings(), service=True)
log, lib = get_logger("ours"), logging.getLogger("library")
texts = json.loads(sys.stdin.read())
"""
EVERY_WAY = """
for text in texts:
    log.warning(text, field=text, several=[text, {text: text}], other=Exception(text))
    lib.warning("%s", text)
    warnings.warn(text)
    pass_on("child", text.replace("\\n", " "))
    try:
        raise RuntimeError(text)
    except RuntimeError:
        log.exception("failed")
        lib.exception("failed")
class Broken:
    def __del__(self):
        raise RuntimeError(texts[0])
Broken()
def fail():
    raise RuntimeError(texts[0])
thread = threading.Thread(target=fail, name=texts[0])
thread.start()
thread.join()
"""
RAISE = "raise RuntimeError(texts[0])"


def run(script: str, *texts: str, log_format: str = "json", **env: str) -> str:
    """Run the script as a service; return what it has written to standard error."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script],
        env=environment_without("USAGE_", "DATABASE", "REDIS") | {"USAGE_LOG_FORMAT": log_format} | env,
        input=json.dumps(texts).encode(),
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (log_format == "json") <= (not done.stdout)
    return done.stderr.decode()


def lines(script: str, *texts: str, **env: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in run(script, *texts, **env).splitlines()]
    for line in found:
        assert {"timestamp", "level", "event", "origin", "host", "pid"} <= line.keys()
    return found


def test_console_lines_show_nothing_raw() -> None:
    shown = run(EVERY_WAY + RAISE, HOSTILE, LONG, log_format="console")
    check_shown(shown)
    assert shown.count("Traceback") == 7  # two for each text, of a finalizer, of a thread, of the process
    assert "\n    RuntimeError: a\\x1b[31m\n" in shown


def test_json_lines_are_objects_whatever_is_written() -> None:
    printing = "print(texts[0])\nsys.stderr.write(texts[0])\nsys.__stdout__.write('to the original')\n"
    found = lines(EVERY_WAY + printing + RAISE, HOSTILE, LONG)
    for line in found:
        for text in str(line.pop("exception", "")).split("\n"):
            check_shown(text.removeprefix("forged"))
        check_shown(json.dumps(line, ensure_ascii=False))
    assert {"ours", "library", "warnings", "child", "uncaught", "stdout", "stderr"} == {it["origin"] for it in found}


def test_traceback_is_bounded() -> None:
    script = "\n".join(f"def f{n}(): return f{n - 1}()" if n else "def f0(): 1 / 0" for n in range(300))
    (line,) = lines(script + "\ntry: f299()\nexcept ZeroDivisionError: log.exception('failed')")
    assert line["exception"].count("\n") == 200
    assert line["exception"].endswith("ZeroDivisionError: division by zero")


def test_only_bugs_have_traceback() -> None:
    outages = [
        "redis.exceptions.ConnectionError('gone')",
        "redis.exceptions.OutOfMemoryError('full')",
        "redis.exceptions.ResponseError('MISCONF no disk')",
        "kombu.exceptions.OperationalError('gone')",
        "usage_worker.errors.StoreUnavailableError('gone')",
        "ConnectionResetError(104, 'reset')",
        "OSError(113, 'No route to host')",
    ]
    bugs = [
        "redis.exceptions.ResponseError('wrong number of arguments')",
        "FileNotFoundError(2, 'No such file')",
        "KeyError('gone')",
    ]
    script = """
import kombu.exceptions, redis.exceptions, usage_worker.errors
for text in texts:
    try:
        raise eval(text)
    except Exception:
        lib.error(text[::-1], exc_info=True)  # without the words of the error
"""
    found = lines(script, *outages, *bugs)
    assert [line["event"][::-1] for line in found if "exception" in line] == bugs
    assert [line["event"][::-1] for line in found if "reason" in line] == outages


def test_fields_of_task_are_in_its_lines_alone() -> None:
    script = (
        "bind_to_lines(task='usage.flush', task_id='7', shard=1)\nlib.warning('in')\n"
        "unbind_from_lines()\nlog.warning('out')"
    )
    inside, outside = lines(script)
    assert (inside["task"], inside["task_id"], inside["shard"]) == ("usage.flush", "7", 1)
    assert outside.keys().isdisjoint({"task", "task_id", "shard"})


def test_passed_line_of_json_keeps_its_fields_and_gets_name_of_process() -> None:
    line = {"event": "flushed", "level": "info", "timestamp": "", "origin": "x", "host": "h", "pid": 1}
    (passed,) = lines("pass_on('worker1', texts[0])", json.dumps(line))
    assert passed == line | {"process": "worker1"}


def test_password_is_masked_in_whatever_is_written() -> None:
    url = "redis://:s3cretword@localhost:6379/0"
    script = "log.warning(texts[0])\nprint(texts[0])\nwarnings.warn(texts[0])\nraise RuntimeError(texts[0])"
    shown = run(script, "s3cretword", REDIS_URL=url)
    assert "s3cretword" not in shown
    assert shown.count("***") == 4
    failed = run(RAISE, "s3cretword", log_format="console", REDIS_URL=url)
    assert "s3cretword" not in failed
    assert "RuntimeError: ***" in failed


def test_repeated_warnings_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    kept = RepeatFilter()
    assert [kept.filter(record(f"try {n} of 100")) for n in range(5)] == [True, False, False, False, False]
    assert kept.filter(record("another warning"))
    assert kept.filter(record("try 5 of 100", logging.INFO))
    now += 10
    again = record("try 6 of 100")
    assert kept.filter(again)
    assert again.__dict__["repeated"] == 4


def test_own_figures_are_never_left_out() -> None:
    kept = RepeatFilter()
    assert all(kept.filter(record({"event": "quarantined", "events": 1})) for _ in range(3))
    failed: dict[str, Any] = {"event": "a task failed", "reason": "gone"}
    shards = [kept.filter(record(failed | {"shard": shard})) for shard in (0, 1, 0)]
    assert shards == [True, True, False]


def test_publisher_logs_nothing_raw(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, publisher_log.name):
        say(logging.ERROR, "%d events dropped: %s", 3, RuntimeError(HOSTILE))
        say(logging.ERROR, "%s after %.0f s", LONG, 2.4)
    for message in caplog.messages:
        check_shown(message)
    assert caplog.messages[0].startswith("3 events dropped: a\\x1b[31m\\nforged")
    assert caplog.messages[1].endswith("... after 2 s")


def record(message: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("library", level, "", 0, message, None, None)


def test_outage_hides_no_dropped_events(caplog: pytest.LogCaptureFixture) -> None:
    log_limited = RateLimitedLog()
    for number in range(3):
        log_limited(logging.WARNING, "holding events back: %s", number)
        log_limited(logging.ERROR, "event dropped: %s", number)
    assert caplog.messages == ["holding events back: 0", "event dropped: 0"]
