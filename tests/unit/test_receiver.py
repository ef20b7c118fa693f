"""Bodies are parsed one after the other, and no API key has more than one among those that wait."""

from __future__ import annotations

import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING

from tests.helpers import eventually
from usage_worker.http.receiver import Receiver
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable


def waits_to_parse(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code is Receiver.take.__code__


def test_requests_of_one_key_leave_their_turn_to_another() -> None:
    parsed: list[str] = []
    may_end = threading.Semaphore(0)

    def reading(name: str) -> Callable[[], list[object]]:
        def read() -> list[object]:
            parsed.append(name)
            assert may_end.acquire(timeout=60)
            return []

        return read

    with closing(Receiver(Settings(REDIS_URL="redis://127.0.0.1:1"))) as receiver:

        def begun(name: str) -> threading.Thread:
            thread = threading.Thread(target=receiver.take, args=(reading(name), lambda item: item, name))
            thread.start()
            return thread

        requests = [begun("busy")]
        eventually(lambda: parsed == ["busy"])
        for name in [*["busy"] * 8, "other"]:
            requests.append(begun(name))
            eventually(lambda: waits_to_parse(requests[-1]))
        for number in range(len(requests)):
            eventually(lambda number=number: len(parsed) > number)  # type: ignore[misc]
            may_end.release()
        for request in requests:
            request.join()
    # Usually the second one: which of two waiting threads gets a lock is the system's choice.
    assert parsed.index("other") < 5
