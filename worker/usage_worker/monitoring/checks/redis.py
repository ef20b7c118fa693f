"""Redis: whether it answers, has room, and keeps what it is given."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from usage_worker.errors import StreamRefusedError, StreamUnavailableError
from usage_worker.monitoring.check import Check, State, fail, unknown
from usage_worker.monitoring.inspection import REDIS, Section
from usage_worker.queue.processes import PROCESSES_KEY
from usage_worker.queue.server import server_facts
from usage_worker.queue.vitals import REDIS_MEMORY_LIMIT, seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.inspection import Inspection

_OF_SERVER = ("redis_memory", "eviction", "persistence", "replica", "loading", "replicas")


def _redis(inspection: Inspection) -> Iterator[Check]:
    """Ask each server for its time. Where one of a Cluster answers, the other checks can be asked, too."""
    connection = inspection.stream.connection
    clocks = inspection.figures.clocks
    failures: dict[str, StreamUnavailableError] = {}
    names = connection.servers()
    for name in names:
        try:
            with connection.server(name) as client:
                ahead = seconds_of(client.time()) - time.time()
        except StreamUnavailableError as error:
            failures[name] = error
        else:
            clocks[f"Redis {name}".strip()] = ahead
    if len(failures) == len(names):
        raise failures[names[0]]
    # That with which the processes compare their own.
    (compared,) = connection.by_server([PROCESSES_KEY])
    if (own := f"Redis {compared}".strip()) in clocks:
        clocks["Redis"] = clocks[own]
    for name, failure in failures.items():
        reason = f"{name}: {failure}; only the shards on other nodes are counted"
        yield fail("redis_nodes", reason, "start it again, or let a replica take over")


def _server(inspection: Inspection) -> Iterator[Check]:
    connection = inspection.stream.connection
    names = connection.servers()
    for name in names:
        try:
            facts = server_facts(connection, name)
        except StreamRefusedError as error:  # as of a managed server
            for check in _OF_SERVER:
                yield unknown(check, str(error))
            continue
        except StreamUnavailableError:
            if len(names) == 1:
                raise
            continue  # said by the check of the nodes
        inspection.figures.redis_memory = max(inspection.figures.redis_memory or 0.0, facts.memory_used)
        yield from _memory(f"of {name}'s" if name else "of Redis'", facts.memory_used, is_broker=inspection.is_broker)
        for concern in facts.concerns_as(connection.kind, name):
            yield Check(concern.name, State(concern.state), concern.reason, concern.remedy)
        if facts.replicas < (wanted := inspection.settings.redis_replicas):
            reason = f"{name or 'Redis'} has {facts.replicas} of {wanted} replicas: events wait with the publishers"
            yield fail("replicas", reason, "start the replica, or lower USAGE_REDIS_REPLICAS")


def _memory(whose: str, used: float, *, is_broker: bool) -> Iterator[Check]:
    if used > REDIS_MEMORY_LIMIT:
        limit = f"publishers hold events back above {REDIS_MEMORY_LIMIT:.0%}"
        stopped = ", and Celery cannot work" if used >= 1 and is_broker else ""
        reason = f"{used:.0%} {whose} maxmemory is in use: {limit}{stopped}"
        yield fail("redis_memory", reason, "raise maxmemory, or run `usage-worker drain`")


REDIS_SECTION = Section((REDIS, "redis_nodes"), _redis)
SERVER = Section(_OF_SERVER, _server, needs=(REDIS,))
