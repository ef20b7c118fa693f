"""The server of USAGE_BROKER_URL: whether it answers, and what threatens the messages that wait there."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError

from usage_worker.errors import BrokerUnavailableError, UnusableBrokerError
from usage_worker.logs import get_logger
from usage_worker.printable import printable
from usage_worker.queue.server import facts_of
from usage_worker.queue.servers import TIMEOUT_SECONDS
from usage_worker.service.broker import BROKER_VARIABLE, OwnConnection, broker_of
from usage_worker.service.server_check import leave, log_concern
from usage_worker.service.transport import NotingChannel

if TYPE_CHECKING:
    from usage_worker.queue.server import Concern, ServerFacts
    from usage_worker.settings import Settings

log = get_logger("broker")


def broker_facts(settings: Settings) -> ServerFacts | None:
    """Connect to the broker, and ask a Redis about itself.

    Returns:
        What it says; None from a broker of another kind, and where it does not let us ask.

    Raises:
        SettingsError: USAGE_BROKER_URL is wrong.
        UnusableBrokerError: it is a Redis of a kind or a version that we cannot use.
        BrokerUnavailableError: it does not answer for 5 s, or refuses us.
    """
    given = broker_of(settings)
    connection: Any = OwnConnection(  # type: ignore[no-untyped-call]
        given["broker_url"],
        ssl=given.get("broker_use_ssl", False),
        connect_timeout=TIMEOUT_SECONDS,
        transport_options=given.get("broker_transport_options"),
    )
    with connection:
        try:
            servers = max(len(connection.alt), 1)
            # Each attempt asks all Sentinels: where these hang, a second one would take as long again.
            connection.ensure_connection(
                max_retries=servers, interval_start=0, interval_step=0, timeout=servers * TIMEOUT_SECONDS
            )
            facts = _facts(connection.default_channel)
        except (OperationalError, OSError, *connection.connection_errors, *connection.channel_errors) as error:
            raise BrokerUnavailableError(printable(settings.mask(str(error)))) from None
    if facts and facts.cluster:
        raise UnusableBrokerError("it is a node of a Redis Cluster")
    if facts and facts.refusal:
        raise UnusableBrokerError(_of_broker(facts.refusal))
    return facts


def broker_concerns(facts: ServerFacts) -> list[Concern]:
    """Return what threatens messages on a Redis, the worst first."""
    # What expires there is nothing of ours.
    found = [it for it in facts.concerns if (it.name, it.state) != ("eviction", "warn")]
    return [it._replace(reason=_of_broker(it.reason), remedy=_of_broker(it.remedy)) for it in found]


def leave_unusable_broker(settings: Settings) -> None:
    """End the process where a broker of this kind can never be used; else log what is wrong, as Celery waits.

    Raises:
        SystemExit: the server, or USAGE_BROKER_URL, can never work.
    """
    if not settings.has_own_broker:
        return
    try:
        facts = broker_facts(settings)
    except UnusableBrokerError as error:
        leave(f"{error}; name another server in {BROKER_VARIABLE}")
    except BrokerUnavailableError as error:
        log.warning(str(error))
        return
    for concern in broker_concerns(facts) if facts else ():
        log_concern(log, concern)


def _facts(channel: Any) -> ServerFacts | None:
    if not isinstance(channel, NotingChannel):
        return None
    facts = facts_of(channel.client)
    if facts:
        with suppress(*channel.connection.channel_errors):
            facts = replace(facts, snapshots=bool(channel.client.config_get("save").get("save")))
    return facts


def _of_broker(text: str) -> str:
    return text.replace("REDIS_URL", BROKER_VARIABLE).replace("events", "messages")
