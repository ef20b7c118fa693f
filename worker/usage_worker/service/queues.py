"""Celery's queues."""

from __future__ import annotations

from enum import StrEnum


class QueueName(StrEnum):
    """The queues that a worker can take from, with `-Q`."""

    COUNTING = "celery"
    """Many small tasks. The name is Celery's default: applications that send `usage.track` rely on it."""
    MAINTENANCE = "maintenance"
    """The periodic tasks, which may take minutes."""
