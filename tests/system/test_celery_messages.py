"""Messages of an application's Celery survive a restart of Redis. It takes a minute: a part of `make test-more`."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from celery import Celery

from tests.faults.harness import Harness
from tests.helpers import eventually
from usage_worker.local import EmbeddedValkey
from usage_worker.local.supervisor import Supervisor
from usage_worker.service.broker import broker_url

if TYPE_CHECKING:
    from pathlib import Path

# The visibility timeout, the interval at which kombu looks, and the time to begin again.
RESTORED_SECONDS = 120


def test_celery_messages_survive_redis_restart(database: str, server_folder: Path, tmp_path: Path) -> None:
    """Those that the worker held when Redis went away are delivered again after the visibility timeout."""
    with (
        EmbeddedValkey(server_folder / "celery-messages") as valkey,
        closing(Harness(database, valkey.url())) as harness,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in harness.env.items():
            patch.setenv(name, value)
        with Supervisor(harness.database, harness.redis_url, flower_port=None, log_dir=tmp_path) as stack:
            stack.wait_ready()
            events = harness.traffic(400, seed=5)
            with closing(Celery(broker=broker_url(harness.redis_url))) as sender:
                for event in events:
                    sender.send_task("usage.track", kwargs=event)
            valkey.restart()
            harness.record(events)

            def all_are_counted() -> bool:
                stack.poll()  # Celery's worker may end when it loses Redis with a message in hand
                return harness.has_counted(harness.sent)

            eventually(all_are_counted, RESTORED_SECONDS)
            harness.check()
