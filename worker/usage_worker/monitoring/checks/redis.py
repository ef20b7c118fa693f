"""Redis: whether it answers, has room, and keeps what it is given."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from usage_worker.errors import StreamRefusedError
from usage_worker.monitoring.check import Check, State, fail, unknown
from usage_worker.monitoring.inspection import REDIS, Section
from usage_worker.publisher.redis_watch import REDIS_MEMORY_LIMIT
from usage_worker.queue.server import server_facts
from usage_worker.queue.vitals import seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.inspection import Inspection

_OF_SERVER = ("redis_memory", "eviction", "persistence", "replica", "loading")


def _redis(inspection: Inspection) -> Iterator[Check]:
    with inspection.stream.connection.client() as client:
        inspection.figures.clocks["Redis"] = seconds_of(client.time()) - time.time()
    yield from ()


def _server(inspection: Inspection) -> Iterator[Check]:
    try:
        facts = server_facts(inspection.stream.connection)
    except StreamRefusedError as error:  # as of a managed server
        for name in _OF_SERVER:
            yield unknown(name, str(error))
        return
    inspection.figures.redis_memory = used = facts.memory_used
    if used > REDIS_MEMORY_LIMIT:
        limit = f"publishers hold events back above {REDIS_MEMORY_LIMIT:.0%}"
        stopped = ", and Celery cannot work" if used >= 1 and not inspection.settings.has_own_broker else ""
        reason = f"{used:.0%} of Redis' maxmemory is in use: {limit}{stopped}"
        yield fail("redis_memory", reason, "raise maxmemory, or run `usage-worker drain`")
    for concern in facts.concerns:
        yield Check(concern.name, State(concern.state), concern.reason, concern.remedy)


REDIS_SECTION = Section((REDIS,), _redis)
SERVER = Section(_OF_SERVER, _server, needs=(REDIS,))
