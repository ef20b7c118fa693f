"""What workers tell about our tasks: in the events that Flower shows, to `celery inspect`, and in Celery's log lines.

Applications send people's ids as arguments of `usage.track`; none of these may show them. The sender of a message also
sends the text of its arguments, so that only the worker that takes the message can replace that text.
"""

from __future__ import annotations

import ast
import time
from typing import Any

from celery.worker.request import Request

from usage_worker.service import task_names
from usage_worker.wording import counted, figures_text

HIDDEN = "(not shown: ids of people)"


class ReadableRequest(Request):  # type: ignore[misc]
    """A message of one of our tasks whose arguments and result are shown in a short form (Celery's `Task.Request`)."""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        if shown := _shown_arguments(self.task.name, self._args, self._kwargs):
            self._argsrepr, self._kwargsrepr = shown
            # The pool's process logs these.
            self._request_dict |= {"argsrepr": self._argsrepr, "kwargsrepr": self._kwargsrepr}

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002 - Celery's signature
        """Return what `celery inspect active` and the others print, and Flower's page of a worker shows."""
        info: dict[str, Any] = super().info(safe=True)
        return info

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's signature
        """Send an event, with a result that people can read."""
        super().send_event(type, **_with_readable_result(fields))


class AppendRequest(ReadableRequest):
    """A message with events, without the time limits that its sender may have given it.

    It is delivered again after each of them: one that is too short for an append would end processes for ever.
    """

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self.time_limits = (None, None)


class QuietRequest(ReadableRequest):
    """A request that is told of when it has ended, and only if it failed or has a result.

    Two idle shards execute 3,600 flushes and 360 heartbeats an hour, which would soon push all other tasks
    out of Flower. The task has `send_events=False`, since Celery sends the first event without asking its request.
    """

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self._received = time.time()

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's signature
        """Send the events that were held back and this one, or none of them."""
        ends_with_news = type == "task-failed" or fields.get("result", "None") != "None"
        if not (ends_with_news and self._eventer and self._eventer.enabled):
            return
        send, identity = self._eventer.send, {"uuid": self.id}
        arguments = {"args": self.argsrepr, "kwargs": self.kwargsrepr}
        send("task-received", **identity, **arguments, name=self.name, timestamp=self._received)
        send("task-started", **identity, timestamp=self.time_start or self._received)
        send(type, **identity, **_with_readable_result(fields))


def _with_readable_result(fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {"result": _readable(fields["result"])} if "result" in fields else fields


def _readable(result: str) -> str:
    """Return figures for people: "backlog 3, oldest 0.1 s" for {'backlog': 3, 'oldest_seconds': 0.1}."""
    try:
        figures = ast.literal_eval(result)
    except (SyntaxError, ValueError):  # Celery has cut it, or it holds what is not a literal
        return result
    return figures_text(figures, zeros=True) if isinstance(figures, dict) else result


def _shown_arguments(task: str, args: Any, kwargs: Any) -> tuple[str, str] | None:
    """Return what stands for the arguments, which may be anything; None where they can be shown as they are."""
    match task, args, kwargs:
        case (task_names.FLUSH, [int() as shard, *_], _) | (task_names.FLUSH, _, {"shard": int() as shard}):
            return f"shard {shard}", "{}"  # without the token by which it claims the shard
        case task_names.TRACK, _, _:
            return "1 event", HIDDEN
        case (task_names.TRACK_MANY, [list() as events], _) | (task_names.TRACK_MANY, _, {"events": list() as events}):
            return counted(len(events), "event"), HIDDEN
        case task_names.TRACK_MANY, _, _:
            return HIDDEN, HIDDEN
    return None
