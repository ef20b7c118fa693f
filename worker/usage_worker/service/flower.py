"""What Flower shows by default, in the processes that our app starts."""

from __future__ import annotations

import logging
import os
from typing import Any

from usage_worker.service.queues import QueueName

# Its own variables, configuration file and options replace these.
DEFAULTS = {
    # By default 100,000, which are 411 MiB; these are 41 MiB, and three hours of two busy shards.
    "FLOWER_MAX_TASKS": "10000",
    # By default without arguments and results. The link to a task's page is in its UUID.
    "FLOWER_TASKS_COLUMNS": "name,args,state,result,received,runtime,worker,uuid",
}


def configure_flower() -> None:
    """Set what the environment does not, and list both queues; for the process that becomes Flower.

    By itself Flower lists the queues of the workers that answered when it asked last. After a start at which it was
    faster than one of them, or while one is down, the queue that nobody empties would be missing.
    """
    from flower.views import BaseHandler  # noqa: PLC0415 - of this process only

    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    of_workers = BaseHandler.get_active_queue_names

    def all_queues(handler: Any) -> list[str]:
        return sorted({*of_workers(handler), *(queue.value for queue in QueueName)})

    BaseHandler.get_active_queue_names = all_queues
    # A browser's connection that is open when Flower ends is no error.
    logging.getLogger("asyncio").addFilter(lambda record: "was destroyed but it is pending" not in record.getMessage())
