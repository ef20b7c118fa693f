"""Events that have a key and no time of their own: the time of the key's first delivery is theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usage_worker.ingest.event_array import time_texts, uuid_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usage_worker.ingest.entries import DecodedEntry
    from usage_worker.store.batch import BatchTransaction


def take_first_times(transaction: BatchTransaction, entries: Sequence[DecodedEntry]) -> bool:
    """Give events that have a key and no time the first time of their key.

    Returns whether any of the keys was delivered before.
    """
    untimed = [(entry, np.flatnonzero(entry.events["is_untimed"])) for entry in entries]
    keys = [key for entry, places in untimed for key in uuid_texts(entry.events["event_id"][places])]
    if not keys:
        return False
    given = [entry.events["occurred_at"][places] for entry, places in untimed]
    times = dict(zip(reversed(keys), np.concatenate(given)[::-1].tolist(), strict=True))  # the first of a key wins
    earlier = transaction.first_times(dict(zip(times, time_texts(np.array([*times.values()])), strict=True)))
    times |= earlier
    taken = iter(keys)
    for entry, places in untimed:
        entry.events["occurred_at"][places] = [times[next(taken)] for _ in places]
    return bool(earlier)
