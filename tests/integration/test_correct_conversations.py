"""The conversations of a pair when an event gets another one, or none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest

from tests.helpers import eventually
from tests.integration.corrections import USES, check_corrected, correct_one, corrected, count, use
from tests.integration.database import run
from usage_worker.errors import EventRefusedError
from usage_worker.events.external_ids import uuid_of
from usage_worker.maintenance.pruning import run_prune
from usage_worker.maintenance.reconcile import reconcile

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from tests.integration.conftest import IngestHarness
    from usage_worker.service.resources import Resources

WAITING = "SELECT count(*) FROM pg_locks WHERE relation = 'public.user_agent_conversations'::regclass AND NOT granted"
KEPT = "SELECT external_id FROM public.usage_external_ids WHERE kind = 'conversation' ORDER BY 1"


def test_conversations(harness: IngestHarness, database: str) -> None:
    one, two, three = sorted(uuid4() for _ in range(3))
    yesterday = 86_400
    events = [
        use(harness, ago=yesterday, conversation_id=one),
        use(harness, ago=50, conversation_id=one),
        use(harness, ago=50, conversation_id=two),
        use(harness, ago=10),
    ]
    count(harness, *events)
    steps: list[tuple[int, UUID | None]] = [
        # Another use has it; at equal times; the newest; nowhere any more; again; the last of all.
        *((1, three), (2, None), (1, None), (3, two), (3, None), (0, two), (1, one), (0, None), (1, None), (2, three)),
    ]
    for place, conversation in steps:
        events[place] = corrected(harness, events[place], conversation_id=conversation)
        check_corrected(harness, events)
    late = use(harness, ago=5, conversation_id=one)
    count(harness, late)
    check_corrected(harness, [*events, late])
    assert len(run(database, "SELECT * FROM public.user_agent_conversations")) == 2


def test_conversation_of_uses_that_the_ledger_does_not_have(harness: IngestHarness, database: str) -> None:
    event = use(harness, conversation_id=uuid4())
    count(harness, event)
    run(
        database,
        "INSERT INTO public.usage_daily (user_id, agent_id, day, usage_count, message_count, success_count)"
        " SELECT user_id, agent_id, '1970-01-01', 1, 1, 1 FROM public.user_agents;"
        "UPDATE public.user_agents SET usage_count = 2, message_count = 2, success_count = 2",
    )
    done = correct_one(harness, event, conversation_id=None, messages=5)
    assert done.kept_conversation == "older uses"
    assert run(database, USES, harness.users[0]) == [(2, 1, None)]
    assert reconcile(harness.resources.store, harness.resources.settings).differences == []


def test_correction_gives_up_where_clients_do_not_end(
    harness: IngestHarness, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its attempts lets the batches of all pairs wait, so that these are few, and short."""
    monkeypatch.setattr("usage_worker.maintenance.correct.ATTEMPTS", 3)
    event, other = use(harness, conversation_id=uuid4()), use(harness, user=1, conversation_id=uuid4())
    count(harness, event)
    with psycopg.connect(database) as client, ThreadPoolExecutor() as pool:
        client.execute("LOCK TABLE public.user_agent_conversations IN ROW EXCLUSIVE MODE")
        correcting = pool.submit(correct_one, harness, event, conversation_id=None)
        eventually(lambda: run(database, WAITING) == [(1,)], 30)
        count(harness, other)
        # Long before it would give up waiting for a row.
        assert "did not end soon" in str(correcting.exception(30))
        client.rollback()
    event = corrected(harness, event, conversation_id=None)
    check_corrected(harness, [event, other])


def test_conversation_of_the_applications_own(
    harness: IngestHarness, make_resources: Callable[..., Resources], database: str
) -> None:
    """A text becomes the UUID that workers make of it; the text that no event names any more is pruned."""
    event = use(harness, conversation_id=uuid4())
    count(harness, event)
    with pytest.raises(EventRefusedError, match="conversation_id: Input should be a valid UUID"):
        correct_one(harness, event, conversation_id="chat 7")
    harness.resources = make_resources(DATABASE_URL=database, ids="uuid5")
    for text in ("chat 7", "chat 8"):
        correct_one(harness, event, conversation_id=text)
        check_corrected(harness, [event | {"conversation_id": uuid_of("conversation", text)}])
    assert run(database, KEPT) == [("chat 7",), ("chat 8",)]
    run_prune(harness.resources.store, harness.resources.settings)
    assert run(database, KEPT) == [("chat 8",)]
