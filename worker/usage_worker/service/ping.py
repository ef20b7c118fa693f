"""Which workers answer, asked by way of their broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import Celery
from kombu.exceptions import OperationalError

from usage_worker.service.broker import OwnAMQP, broker_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from usage_worker.settings import Settings


def answering_nodes(settings: Settings, nodes: Collection[str], timeout: float) -> set[str]:
    """Return those nodes that answer within `timeout` seconds; none where the broker does not.

    Raises:
        SettingsError: the broker's URL cannot be read.
    """
    # Not the app of `service.app`, which makes what workers need, and would become the current one.
    app = Celery("ping", amqp=OwnAMQP, set_as_current=False)
    app.conf.update(broker_of(settings))
    with app.connection_for_write() as connection:
        try:
            replies = app.control.ping(list(nodes), timeout, connection=connection)
        except (OperationalError, OSError, *connection.connection_errors, *connection.channel_errors):
            return set()
    return {node for reply in replies for node in reply}
