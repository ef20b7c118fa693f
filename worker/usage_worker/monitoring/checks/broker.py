"""The broker, where it is another server than that of the streams: whether it answers, has room, and keeps messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.errors import SettingsError
from usage_worker.monitoring.check import Check, State, ok, unknown, warn
from usage_worker.monitoring.inspection import BROKER, Section
from usage_worker.queue.vitals import REDIS_MEMORY_LIMIT
from usage_worker.service.broker import broker_of
from usage_worker.service.broker_server import broker_concerns, broker_facts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.inspection import Inspection
    from usage_worker.queue.server import ServerFacts


def _broker(inspection: Inspection) -> Iterator[Check]:
    settings = inspection.settings
    if not settings.has_own_broker:
        try:
            broker_of(settings)
        except SettingsError as error:  # as an application's own app has a broker that only it knows
            yield unknown(BROKER, error.detail, "set USAGE_BROKER_URL for this command, too")
        else:
            yield ok(BROKER, "the server of REDIS_URL")
        return
    facts = broker_facts(settings)
    found = list(_concerns(facts)) if facts else []
    yield from found or [ok(BROKER, f"{settings.broker_url.partition('://')[0]}:// answers")]


def _concerns(facts: ServerFacts) -> Iterator[Check]:
    if facts.memory_used > REDIS_MEMORY_LIMIT:
        yield warn(BROKER, f"{facts.memory_used:.0%} of the broker's maxmemory is in use", "raise its maxmemory")
    for concern in broker_concerns(facts):
        yield Check(BROKER, State(concern.state), concern.reason, concern.remedy)


BROKER_SECTION = Section((BROKER,), _broker)
