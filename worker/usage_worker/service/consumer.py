"""Celery's consumer of our own workers: a message that cannot even be decompressed becomes a dead letter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery.worker.consumer import Consumer

from usage_worker.errors import StreamUnavailableError
from usage_worker.service import entry_point
from usage_worker.service.task_names import TRACK, TRACK_MANY

if TYPE_CHECKING:
    from kombu.message import Message


class QuarantiningConsumer(Consumer):  # type: ignore[misc]
    """Keeps what Celery would acknowledge and drop before the task's strategy sees it."""

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """Append a message of the entry point to the stream, from which ingest quarantines it."""
        name = message.headers.get("task")
        if name not in (TRACK, TRACK_MANY):
            super().on_decode_error(message, exc)
            return
        try:
            entry_point.quarantine(self.app.usage_resources.stream, name, message, exc)
        except StreamUnavailableError as outage:
            entry_point.return_later(self, message, name, outage)
        else:
            message.ack()  # type: ignore[no-untyped-call]
