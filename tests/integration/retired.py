"""What the tests of purge and reconcile share: rows that were deleted long ago, and figures over all lives."""

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
      FROM (SELECT * FROM public.usage_daily UNION ALL SELECT * FROM public.usage_retired_daily) AS lives
     GROUP BY user_id, agent_id
"""


def soft_delete(url: str, user_id: object, agent_id: object, days: int = 40) -> None:
    """Delete a pair as people do, so many days ago."""
    run(
        url,
        "UPDATE public.user_agents SET deleted_at = now() - make_interval(days => %s)"
        " WHERE user_id = %s AND agent_id = %s",
        *(days, user_id, agent_id),
    )


def track(url: str, user_id: object, agent_id: object) -> None:
    """Count a use past the stream, as SQL clients do."""
    run(url, "SELECT public.track_agent_usage(%s, %s, true, 7, 0.25, 100)", user_id, agent_id)


def uses(url: str) -> dict[tuple[Any, Any], int]:
    """How often every pair was used, over all its lives."""
    return {row[:2]: row[2] for row in run(url, USES_BY_PAIR)}


def expected_uses(events: Iterable[dict[str, Any]]) -> Counter[tuple[Any, Any]]:
    return Counter((event["user_id"], event["agent_id"]) for event in events if event.get("type") != "rating")


def repeated_calls(*clients: Callable[[], object]) -> AbstractContextManager[None]:
    """Each client is called again and again, in a thread of its own, until the block ends; what it raises is raised."""

    def repeated(client: Callable[[], object]) -> Callable[[threading.Event], None]:
        def repeat(over: threading.Event) -> None:
            while not over.is_set():
                client()

        return repeat

    return traffic(*map(repeated, clients))
