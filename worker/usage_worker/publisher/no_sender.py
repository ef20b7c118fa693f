"""What a disabled publisher has in place of a sender: no thread, no connection, and every event goes nowhere."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from usage_worker.environment import REDIS_VARIABLES
from usage_worker.publisher.rate_limited_log import RateLimitedLog, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.publisher.account import Account, Portion, PublisherStats


class NoSender:
    """Has the methods of `Sender`, and logs one line when it is made."""

    def __init__(self, *, switched_off: bool) -> None:
        self._reason = "disabled" if switched_off else f"disabled, since neither {' nor '.join(REDIS_VARIABLES)} is set"
        level = logging.INFO if switched_off else logging.WARNING
        say(level, "the publisher is %s; no events are sent", self._reason)
        self._log_limited = RateLimitedLog()

    def put(self, *_: Any, **__: Any) -> bool:
        return False

    def refuse(self, account: Account, reason: object) -> None:
        """Count and log an event that can never be sent, in a test that captures events."""
        account.refused += 1
        self._log_limited(logging.WARNING, "%s", reason)

    def count_filtered(self, account: Account) -> None:
        account.filtered += 1

    def begin_flush(self, _: Account) -> Sequence[Portion]:
        return ()

    def await_sent(self, *_: object) -> bool:
        return True

    def stats(self, account: Account) -> PublisherStats:
        return account.stats(self._reason)

    def shut(self, account: Account) -> None:
        account.open = False

    def close(self, account: Account, _: float) -> None:
        account.open = False

    def leave(self, _: Account) -> None: ...
