"""Policies of other names are renamed or dropped only if they are equivalent to ours."""

from __future__ import annotations

import pytest

from usage_worker.migrate.meaning import renames
from usage_worker.migrate.verify import Difference

OURS = "select to authenticated using (user_id = ( SELECT auth.uid() AS uid))"


def renamed(ours: str, theirs: str) -> int:
    found = [
        Difference("policy", "user_agents.ours", None, ours, named=True),
        Difference("policy", "user_agents.theirs", theirs, None, named=False),
    ]
    return len(list(renames(found)))


@pytest.mark.parametrize("theirs", [OURS, "select to public using (auth.uid() = user_id)"])
def test_equivalent_policy_is_renamed(theirs: str) -> None:
    assert renamed(OURS, theirs) == 1


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (OURS, "update to authenticated using (user_id = auth.uid())"),
        (OURS, "select to authenticated using (agent_id = auth.uid())"),
        ("all to authenticated using ((a AND b) OR c)", "all to authenticated using (a AND (b OR c))"),
        ("all to authenticated using ((NOT a) AND b)", "all to authenticated using (NOT (a AND b))"),
    ],
)
def test_other_policy_stays(ours: str, theirs: str) -> None:
    assert renamed(ours, theirs) == 0
