"""Entries and messages that nobody can count, among the good ones. Each holds a token by which it is found again."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tests.chaos.journal import Letter
from tests.faults.harness import UNKNOWN_USER

if TYPE_CHECKING:
    from random import Random

    from tests.chaos.journal import Event

# Bodies of Celery messages that the main process of a worker cannot read; T is the token.
MESSAGES = ['["T"]', '{"a": "T"}', '[1, "T", 3]', '[["T"], {"a": 1}', '[[], {"self": "T"}, {}]']
MESSAGES += ['["T"' + ",[" * 3_000]


def token() -> str:
    return f"chaos{uuid4().hex}"


def bad_event(random: Random, good: Event, mark: str) -> Event:
    """Return an event that is refused by itself; its model, or whatever is wrong in it, is the mark."""
    now = datetime.now(UTC)
    wrong: dict[str, Any] = random.choice(
        [
            {"user_id": UNKNOWN_USER},
            {"user_id": f"a\0{mark}"},
            {"user_id": [mark]},
            {"occurred_at": now + timedelta(days=3)},
            {"occurred_at": now - timedelta(days=400)},
            {"occurred_at": "2026-02-30T00:00:00.000000Z"},
            {"occurred_at": "0000-01-01T00:00:00.000000Z"},
            {"input_tokens": -5},
            {"input_tokens": 10**30},
            {"input_tokens": True},
            {"cost_usd": "NaN"},
            {"cost_usd": "1e999"},
            {"messages": "1" * 5_000},
            {"response_time_ms": -1},
            {"rating": 9, "type": "rating"},
            {"colour": mark},
            {"conversation_id": mark},
        ]
    )
    return good | {"event_id": str(uuid4()), "model": mark, "cost_usd": "0", "messages": 1} | wrong


def entry(random: Random, good: list[Event]) -> tuple[dict[str, Any], list[Event], list[Letter]]:
    """Return the fields of a hostile entry, the events in it that count all the same, and its dead letters."""
    mark = token()
    whole, users = [Letter(mark)], tuple(str(it["user_id"]) for it in good)
    fields: dict[str, Any] = {"v": "1", "n": "1", "id": str(uuid4())}
    draw = random.randrange(14)
    if draw < 5:  # among good events
        events = [*good, *(bad_event(random, good[0], mark) for _ in range(random.randint(1, 3)))]
        random.shuffle(events)
        fields["n"] = random.choice([str(len(events)), "999999", "-1", "x"])
        return fields | {"events": text(events)}, good, [Letter(mark, len(events) - len(good), users)]
    if draw == 5:  # a version that is none
        return fields | {"v": "x", "n": "3", "events": text(good) + mark}, [], [Letter(mark, 3, users)]
    if draw == 6:  # columns that are none
        return fields | {"v": "2", "events": json.dumps({"event_id": [mark], "user_id": 5})}, [], whole
    if draw == 7:
        return fields | {"text": mark}, [], whole
    if draw == 8 and random.random() < 0.2:
        return fields | {"events": f'["{mark}' + "x" * 2**20 + '"]'}, [], whole
    bodies = [f'["{mark}"]', f'[{{"user_id": "{mark}"', f'"{mark}"', f'{{"a": "{mark}"}}', f'["{mark}", {"[" * 10_000}']
    bodies += [f"\x1f\x8b\0{mark}", f'["{mark}",{"1" * 9}', mark]
    return fields | {"events": random.choice(bodies)}, [], whole


def text(events: list[Event]) -> str:
    return json.dumps(events, default=str)
