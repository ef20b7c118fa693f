"""Records and totals as the lines that `store` copies.

Text, in the canonical form that the records have already: PostgreSQL parses it faster than Python would convert it for
the binary format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.store.copy_text import NULL, array, escaped

if TYPE_CHECKING:
    from usage_worker.events.event import Pair, Record
    from usage_worker.ingest.fold import Totals


def ledger_line(record: Record) -> str:
    """Return an event as a line of `copy_ledger`."""
    event_id, when, kind, user, agent, messages, tin, tout, tokens, cost, time, success, conversation, model, rating = (
        record
    )
    return (
        f"{event_id}\t{when}\t{kind}\t{user}\t{agent}\t{messages}\t{tin}\t{tout}\t{tokens}\t{cost or NULL}\t"
        f"{NULL if time is None else time}\t{'t' if success else 'f'}\t{conversation or NULL}\t"
        f"{NULL if model is None else escaped(model)}\t{rating or NULL}\n"
    )


def totals_line(pair: Pair, total: Totals) -> str:
    """Return one pair's totals of a day as a line of `copy_totals`."""
    first, last = total.first_used_at, total.last_used_at
    conversation_at, newest = total.last_conversation or (NULL, "")
    others = total.conversations - {newest} if len(total.conversations) > 1 else ()
    rated_at, rating = total.last_rating or (NULL, NULL)
    return (
        f"{pair[0]}\t{pair[1]}\t{total.usage_count}\t{total.message_count}\t{total.success_count}\t"
        f"{total.input_tokens}\t{total.output_tokens}\t0\t0\t0\t{total.tokens}\t"
        f"{total.cost_usd:f}\t{total.response_time_total_ms}\t{total.response_time_samples}\t"
        f"{NULL if first is None or first == last else first}\t{last or NULL}\t"
        f"{array((newest, *others)) if newest else NULL}\t{conversation_at}\t{rating}\t{rated_at}\n"
    )
