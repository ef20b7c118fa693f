"""Celery: whoever `usage_worker.context` names when a task is published is named while it runs.

Example:
    >>> usage_worker.integrations.celery.install()
    >>> with usage_worker.context(user_id=42, agent_id="support-bot"):
    ...     answer.delay(question)

The publisher itself needs nothing from here: it sends what a child of a worker has when the child ends.
"""

from __future__ import annotations

from contextlib import ExitStack
from threading import get_ident
from typing import TYPE_CHECKING, Any

from usage_worker.errors import needs_extra
from usage_worker.publisher.context import context, current_context

with needs_extra("server"):
    from celery import signals

if TYPE_CHECKING:
    from celery import Task

_HEADER = "usage_context"
# A thread or a greenlet runs one task at a time, a process many, and one that was delivered again perhaps twice.
_running: dict[tuple[str, int], ExitStack] = {}


def install() -> None:
    """Send the context with every task that this process publishes, and enter it for every task that it runs.

    To be called where the Celery app is made, which publishers and workers load. Calling it again changes nothing.
    """
    for signal, receiver in (
        (signals.before_task_publish, _send),
        (signals.task_prerun, _enter),
        (signals.task_postrun, _leave),
    ):
        signal.connect(receiver, weak=False, dispatch_uid=receiver.__qualname__)


def _send(*, headers: dict[str, Any], **_: object) -> None:
    ids = current_context()
    if ids:
        headers[_HEADER] = {name: it if isinstance(it, int | str) else str(it) for name, it in ids.items()}


def _enter(*, task_id: str, task: Task, **_: object) -> None:
    if ids := getattr(task.request, _HEADER, None):
        _running[task_id, get_ident()] = stack = ExitStack()
        stack.enter_context(context(**ids))


def _leave(*, task_id: str, **_: object) -> None:
    if stack := _running.pop((task_id, get_ident()), None):
        stack.close()
