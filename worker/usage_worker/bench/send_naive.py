"""The sender of the naive path: one Celery message per event."""

from __future__ import annotations

import sys

from usage_worker.bench.load import Load
from usage_worker.bench.naive import track
from usage_worker.bench.sender import DONE, report, wait_for_go


def main(load: Load) -> None:
    """Prepare the arguments of the task, then send the messages."""
    calls = [
        (str(it["user_id"]), str(it["agent_id"]), it["success"], it["input_tokens"] + it["output_tokens"],
         str(it["cost_usd"]), it["response_time_ms"])
        for it in load.generate()
    ]  # fmt: skip
    wait_for_go()
    for call in calls:
        track.delay(*call)
    report(DONE)


if __name__ == "__main__":
    main(Load.from_arguments(sys.argv[1:]))
