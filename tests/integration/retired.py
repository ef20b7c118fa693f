"""Helpers for purge and reconcile: soft-deleted rows, and uses of pairs in live and retired rows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.integration.database import run, traffic

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

USES_BY_PAIR = """
    SELECT user_id, agent_id, sum(usage_count)::int
      FROM (SELECT * FROM public.usage_daily UNION ALL SELECT * FROM public.usage_retired_daily) AS days
     GROUP BY user_id, agent_id
"""


def soft_delete(url: str, user_id: object, agent_id: object, days: int = 40) -> None:
    """Soft-delete a pair as of `days` ago, as users do."""
    run(
        url,
        "UPDATE public.user_agents SET deleted_at = now() - make_interval(days => %s)"
        " WHERE user_id = %s AND agent_id = %s",
        *(days, user_id, agent_id),
    )


def track(url: str, user_id: object, agent_id: object) -> None:
    """Count a use without the stream, as SQL clients do."""
    run(url, "SELECT public.track_agent_usage(%s, %s, true, 7, 0.25, 100)", user_id, agent_id)


def uses(url: str) -> dict[tuple[Any, Any], int]:
    """Return the uses of every pair, in live and retired rows."""
    return {row[:2]: row[2] for row in run(url, USES_BY_PAIR)}


def expected_uses(events: Iterable[dict[str, Any]]) -> Counter[tuple[Any, Any]]:
    return Counter((event["user_id"], event["agent_id"]) for event in events if event.get("type") != "rating")


def repeated_calls(*clients: Callable[[], object]) -> AbstractContextManager[None]:
    """Call each client repeatedly, each in its own thread, until the block ends, and raise their errors."""

    def repeated(client: Callable[[], object]) -> Callable[[threading.Event], None]:
        def repeat(over: threading.Event) -> None:
            while not over.is_set():
                client()

        return repeat

    return traffic(*map(repeated, clients))
