"""Time limits of a Celery worker and of messages lose no event of an application."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.helpers import eventually
from tests.integration.bad_network import bad_network
from tests.integration.test_poison_celery import await_accepted, running_worker
from tests.integration.test_poison_events import pair

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import IngestHarness

# Seconds, as in `limited_tasks`; an attempt to append lasts 0.3 s.
LIMIT = 0.1
LOGGED = (
    rf"Soft time limit \({LIMIT}s\) exceeded for soft",
    rf"Hard time limit \({LIMIT}s\) exceeded for hard",
    r"events wait .*Timeout reading.*task=usage.track",
)


def test_time_limits_lose_no_event_while_redis_hangs(harness: IngestHarness, tmp_path: Path) -> None:
    """Those of the worker and of a message do not end `usage.track`, and other limits put the message back."""
    url, log = harness.resources.settings.redis_url, tmp_path / "worker.log"
    options = "--concurrency=3", f"--time-limit={LIMIT}", "-Q", "maintenance", "--without-mingle", "--without-gossip"
    with bad_network(url) as network:
        network.mode = "hang"
        servers = {"REDIS_URL": network.url, "USAGE_BROKER_URL": url}
        module = "tests.integration.limited_tasks"
        with running_worker(harness, "prefork", *options, app=module, log=log, **servers) as sender:
            for task, soft, hard in (("soft", None, None), ("hard", None, None), ("usage.track", 1e-6, 1e-6)):
                limits = {"soft_time_limit": soft, "time_limit": hard}
                sender.send_task(task, kwargs=pair(harness), queue="maintenance", **limits)
            eventually(lambda: all(re.search(line, log.read_text()) for line in LOGGED), 30)
            network.mode = "good"
            await_accepted(harness, 3)
