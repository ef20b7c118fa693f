"""Workers that die, stop or are asked to stop, at every point of a batch."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.faults.arena import NOBODY, state_of
from tests.faults.flusher import POINTS
from tests.helpers import eventually

if TYPE_CHECKING:
    from tests.faults.arena import Arena

COMMITTED = POINTS[3:]


def with_duplicates(arena: Arena) -> None:
    events = arena.traffic(800)
    strangers = [event | {"user_id": NOBODY} for event in arena.traffic(5, seed=9)]
    arena.publish([*events, *events[:50], *strangers])


@pytest.mark.parametrize("point", POINTS)
def test_killed(arena: Arena, point: str) -> None:
    with_duplicates(arena)
    with arena.workers(1, point) as (victim,):
        assert victim.wait(30) == -signal.SIGKILL
        assert arena.pending > 0
        assert (arena.intake.accepted > 0) == (point in COMMITTED)
    with arena.workers(2):
        eventually(arena.settled, 30)
    arena.check()


@pytest.mark.parametrize("point", POINTS)
def test_stopped_longer_than_the_reclaim_time(arena: Arena, point: str) -> None:
    """The others count its batch; when it goes on, it must not count it again."""
    with_duplicates(arena)
    with arena.workers(1, point, "STOP") as (sleeper,):
        eventually(lambda: state_of(sleeper.pid) == "T", 30)
        with arena.workers(2):
            eventually(arena.settled, 60)
            sleeper.send_signal(signal.SIGCONT)
            arena.publish(arena.traffic(300, seed=2))
            eventually(arena.settled, 30)
            assert sleeper.poll() is None
    arena.check()
