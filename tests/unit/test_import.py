"""What `import usage_worker` loads, and how long an application waits for it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

PUBLISHER = "import usage_worker; usage_worker.UsagePublisher"
# What the publisher reads its fields with; its own share is what is compared.
PYDANTIC = "import pydantic; pydantic.TypeAdapter"
OWN_SHARE = 2.0


def processor_times(*programs: str) -> list[float]:
    """Return the processor time of a Python that runs each program: the shortest of five, in seconds.

    They take turns, since the speed of a shared machine changes.
    """
    rounds = [[_processor_time(program) for program in programs] for _ in range(5)]
    return [min(times) for times in zip(*rounds, strict=True)]


def _processor_time(program: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_publisher_takes_little_more_than_pydantic_to_import() -> None:
    """Measured: pydantic 0.08 s, the publisher 0.18 s; with pydantic-settings and the Redis client 0.31 s."""
    python, pydantic, publisher = processor_times("pass", PYDANTIC, PUBLISHER)
    assert publisher - python < (pydantic - python) * (1 + OWN_SHARE)


def test_publisher_loads_neither_settings_library_nor_event_loop() -> None:
    program = (
        f"{PUBLISHER}; usage_worker.UsagePublisher(disabled=True); import json, sys; print(json.dumps([*sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert {"pydantic", "uuid_utils"} <= loaded
    assert not loaded & {"pydantic_settings", "dotenv", "redis", "asyncio", "multiprocessing", "pytest"}


def test_service_that_only_takes_events_loads_no_celery() -> None:
    """Celery takes a third of a second to load; the status brings it in, at the first look at the page."""
    program = "import usage_worker.http.app, json, sys; print(json.dumps([*sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "starlette" in loaded
    assert not loaded & {"celery", "kombu"}
