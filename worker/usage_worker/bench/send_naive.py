"""The sender of the usual way: one Celery message an event."""

from __future__ import annotations

import sys

from usage_worker.bench.load import Load, echo, get_ready
from usage_worker.bench.naive import track


def main(load: Load) -> None:
    calls = [
        (str(it["user_id"]), str(it["agent_id"]), it["success"], it["input_tokens"] + it["output_tokens"],
         str(it["cost_usd"]), it["response_time_ms"])
        for it in load.fields()
    ]  # fmt: skip
    get_ready()
    for call in calls:
        track.delay(*call)
    echo("done")


if __name__ == "__main__":
    main(Load.of_arguments(sys.argv[1:]))
