"""Flower shows the real queues, and nothing depends on it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from structlog.testing import capture_logs

from tests.helpers import eventually, fetched, free_port
from usage_worker.local.supervisor import LOCALHOST, Supervisor
from usage_worker.maintenance.analytics import REFRESH
from usage_worker.maintenance.purge import PURGE
from usage_worker.service.app import make_app
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    import redis


def test_queues_have_their_names_and_lengths(database: str, redis_url: str, tmp_path: Path) -> None:
    with make_app(Settings(REDIS_URL=redis_url)) as app:
        for task in ("usage.flush", "usage.flush", "usage.flush", PURGE, REFRESH):
            app.send_task(task)
    servers = {"DATABASE_URL": database, "REDIS_URL": redis_url, "FLOWER_UNAUTHENTICATED_API": "true"}
    port = free_port()
    command = [sys.executable, "-m", "celery", "-A", "usage_worker", "flower", f"--port={port}"]
    with (
        (tmp_path / "flower.log").open("wb") as log,
        subprocess.Popen(command, env=os.environ | servers, stdout=log, stderr=log) as flower,
    ):
        try:
            answer: dict[str, Any] = json.loads(
                eventually(lambda: fetched(f"http://{LOCALHOST}:{port}/api/queues/length"), 60)
            )
            page = fetched(f"http://{LOCALHOST}:{port}/broker")
        finally:
            flower.kill()
    assert answer["active_queues"] == [{"name": "celery", "messages": 3}, {"name": "maintenance", "messages": 2}]
    assert "maintenance" in page
    assert "MAINTENANCE" not in page


def test_flower_can_die_without_effect_on_the_stack(
    database: str, redis_worker_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    redis_client.acl_log_reset()
    with capture_logs() as messages, socket.create_server((LOCALHOST, 0)) as occupier:
        port = occupier.getsockname()[1]
        with Supervisor(database, redis_worker_url, concurrency=1, flower_port=port, log_dir=tmp_path) as stack:
            others = {name: pid for name, pid in stack.pids.items() if name != "flower"}
            stack.wait_ready(180)
            eventually(lambda: polled(stack) and any(line.get("process") == "flower" for line in messages), 30)
            occupier.close()
            eventually(lambda: polled(stack).flower_listens, 60)
            os.kill(stack.pids["flower"], signal.SIGKILL)
            eventually(lambda: not stack.flower_listens)
            eventually(lambda: polled(stack).flower_listens, 60)
            assert others == {name: pid for name, pid in stack.pids.items() if name != "flower"}
    assert {line["process"] for line in messages if line["log_level"] == "warning"} == {"flower"}
    assert redis_client.acl_log() == []
    assert "Address already in use" in (tmp_path / "flower.log").read_text()


def polled(stack: Supervisor) -> Supervisor:
    stack.poll()
    return stack
