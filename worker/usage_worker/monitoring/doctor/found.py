"""What was found where a check of the status passes; the status shows these figures in rows of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.service.process_record import COUNTING, MAINTENANCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.inspection import Figures


def found(figures: Figures) -> dict[str, str]:
    """Return the figure by the name of the check."""
    return dict([*_queue(figures), *_database(figures)])


def _queue(figures: Figures) -> Iterator[tuple[str, str]]:
    if figures.redis_memory is not None:
        yield "redis_memory", f"{figures.redis_memory:.0%} of maxmemory" if figures.redis_memory else "no limit"
    for role in (COUNTING, MAINTENANCE):
        names = [it.name for it in figures.alive if role in it.process.roles]
        yield f"consumer_{role}", ", ".join(names) or "not needed"
    if figures.shards is not None:
        yield "shards_setting", f"{figures.shards} shards"
    if figures.beat_seconds is not None:
        yield "beat", f"last heartbeat {figures.beat_seconds:.0f} s ago"
    if figures.flushes:
        times = [it.succeeded_seconds for it in figures.flushes.values() if it.succeeded_seconds is not None]
        yield "flush", f"last one {max(times):.0f} s ago" if times else "none yet"
    if figures.backlog is not None:
        waiting = sum(it.entries for it in figures.backlog.values())
        oldest = max((it.oldest_seconds for it in figures.backlog.values()), default=0.0)
        yield "oldest_entry", f"{waiting:,} entries wait, the oldest for {oldest:.1f} s" if waiting else "none waits"


def _database(figures: Figures) -> Iterator[tuple[str, str]]:
    if figures.server is not None:
        yield "postgresql", str(figures.server)
    yield "servers", ", ".join(filter(None, (figures.servers or {}).values())) or "DATABASE_URL names one"
    if figures.schema is not None:
        yield "schema", figures.schema
    if (totals := figures.totals) is not None:
        yield "intake", f"{totals.accepted:,} events accepted, {totals.quarantined:,} of them quarantined"
    if figures.partitions is not None:
        ahead = (f"{it.table}: {max(it.ahead_days, 0)} days ahead" for it in figures.partitions)
        yield "partitions", ", ".join(ahead)
    # Records of processes are exact to a second only.
    servers = [(name, figures.clocks[name]) for name in ("Redis", "PostgreSQL") if name in figures.clocks]
    if servers:
        yield "clocks", ", ".join(f"{name} {ahead:+.3f} s" for name, ahead in servers) + " from this machine"
