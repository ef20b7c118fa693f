"""Celery's queues."""

from __future__ import annotations

from enum import StrEnum


class QueueName(StrEnum):
    """What a worker can be told to take from, with `-Q`."""

    COUNTING = "celery"
    """Small tasks, and many of them. The name is Celery's default: applications that send `usage.track` rely on it."""
    MAINTENANCE = "maintenance"
    """Few tasks, which may take minutes."""
