"""The sender of the path without a queue: the application COPYs its events into the ledger and rolls them up by SQL.

As a team would write it that trusts its only process: packs of text, each a transaction of its own, a watermark by
time. Events of a pack that fails are lost, a pack or roll-up that is repeated counts twice, rows of another process
that commits later are missed, and conversations are kept but not counted.
"""

from __future__ import annotations

import gc
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from uuid_utils.compat import uuid7

from usage_worker.bench.load import Load
from usage_worker.bench.sender import DONE, report, wait_for_go
from usage_worker.bench.sql import query as bench_query
from usage_worker.settings import load_settings
from usage_worker.store.connection import Store
from usage_worker.store.queries import query

if TYPE_CHECKING:
    from usage_worker.postgres import Connection

PACK = 500  # events, as the product's entries have
ROLL_UP_EVERY = 20_000  # events


def main(load: Load) -> None:
    """Prepare the events, then copy and roll them up."""
    events = list(load.generate())
    gc.freeze()  # as in the product's publisher
    with Store(load_settings().require_database()) as store, store.session() as connection:
        connection.execute(query("ensure_day"), {"day": datetime.now(UTC).date()})
        rolled_up = store.now()
        wait_for_go()
        for end in range(PACK, len(events) + PACK, PACK):
            _copy(connection, events[end - PACK : end])
            if end % ROLL_UP_EVERY == 0 or end >= len(events):
                rolled_up = _roll_up(connection, rolled_up)
        report(DONE)


def _copy(connection: Connection, pack: list[dict[str, Any]]) -> None:
    now = datetime.now(UTC)
    with connection.cursor() as cursor, cursor.copy(bench_query("copy_ledger_text")) as copy:
        copy.write("".join([_line(event, now) for event in pack]))


def _line(it: dict[str, Any], now: datetime) -> str:
    time = r"\N" if it["response_time_ms"] is None else it["response_time_ms"]
    return (
        f"{uuid7()}\t{now}\tusage\t{it['user_id']}\t{it['agent_id']}\t{it['messages']}\t{it['input_tokens']}\t"
        f"{it['output_tokens']}\t{it['input_tokens'] + it['output_tokens']}\t{it['cost_usd']:f}\t{time}\t"
        f"{it['success']}\t{it['conversation_id']}\t{it['model']}\n"
    )


def _roll_up(connection: Connection, after: datetime) -> datetime:
    """Count what was recorded after a time, and return the time of the newest row."""
    row = connection.execute(bench_query("newest_recorded")).fetchone() or (after,)
    upto: datetime = row[0]
    connection.execute(bench_query("roll_up_recorded"), {"after": after, "upto": upto})
    return upto


if __name__ == "__main__":
    main(Load.from_arguments(sys.argv[1:]))
