"""The two triggers of `user_agents`: when they set the score and updated_at, and when they do not."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from tests.integration.database import add_pair, run

if TYPE_CHECKING:
    import uuid

SCORE = "SELECT quality_score FROM public.user_agents WHERE id = %s"


@pytest.fixture
def row_id(database: str) -> str:
    return add_pair(database)


def pair_without_a_row(url: str) -> tuple[uuid.UUID, uuid.UUID]:
    user = run(url, "INSERT INTO auth.users (email) VALUES ('x') RETURNING id")[0][0]
    return user, run(url, "INSERT INTO public.agents (name) VALUES ('other') RETURNING id")[0][0]


@pytest.mark.parametrize(
    ("columns", "values", "score"),
    [
        # A missing rating counts as 3.0, missing outcomes and uses as 0.
        ("usage_count", "0", "1.50"),
        ("user_rating", "5", "2.50"),
        ("usage_count, success_count, error_count", "101, 100, 1", "3.99"),
        ("user_rating, usage_count, success_count", "4, 6, 6", "4.10"),
        # The score that a client writes is overwritten.
        ("quality_score", "0.01", "1.50"),
    ],
)
def test_insert_sets_score(database: str, columns: str, values: str, score: str) -> None:
    insert = f"INSERT INTO public.user_agents (user_id, agent_id, {columns}) VALUES (%s, %s, {values})"
    assert run(database, insert + " RETURNING quality_score", *pair_without_a_row(database)) == [(Decimal(score),)]


@pytest.mark.parametrize(
    ("change", "score"),
    [
        ("user_rating = 0", "0.00"),
        ("usage_count = 1", "2.00"),
        ("success_count = 1", "3.00"),
        ("error_count = 1", "1.50"),
        ("success_count = 1, error_count = 1", "2.25"),
        ("user_rating = 5, quality_score = 0.01", "2.50"),
    ],
)
def test_update_of_score_inputs_sets_score(database: str, row_id: str, change: str, score: str) -> None:
    update = f"UPDATE public.user_agents SET {change} WHERE id = %s RETURNING quality_score"
    assert run(database, update, row_id) == [(Decimal(score),)]


def test_removed_rating_leaves_score_of_unrated_agent(database: str, row_id: str) -> None:
    run(database, "UPDATE public.user_agents SET user_rating = 5 WHERE id = %s", row_id)
    run(database, "UPDATE public.user_agents SET user_rating = NULL WHERE id = %s", row_id)
    assert run(database, SCORE, row_id) == [(Decimal("1.50"),)]


def test_other_updates_do_not_compute_score(database: str, row_id: str) -> None:
    run(database, "UPDATE public.user_agents SET quality_score = 0.01 WHERE id = %s", row_id)
    run(database, "UPDATE public.user_agents SET folder = 'work', total_tokens_used = 9 WHERE id = %s", row_id)
    assert run(database, SCORE, row_id) == [(Decimal("0.01"),)]


def test_updated_at_is_set_by_every_update_and_no_insert(database: str) -> None:
    long_ago = "2024-02-29 12:00:00+00"
    times = "created_at = %s::timestamptz, updated_at = %s::timestamptz, updated_at = now()"
    pair = pair_without_a_row(database)
    inserted = run(
        database,
        "INSERT INTO public.user_agents AS ua (user_id, agent_id, created_at, updated_at) VALUES (%s, %s, %s, %s)"
        f" RETURNING {times}",
        *(*pair, long_ago, long_ago, long_ago, long_ago),
    )
    assert inserted == [(True, True, False)]
    messages = ("updated_at = '2024-02-29 12:00:00+00'", "updated_at = now()")
    for change in ("folder = 'work'", "usage_count = usage_count + 1", *messages):
        update = f"UPDATE public.user_agents SET {change} WHERE (user_id, agent_id) = (%s, %s) RETURNING {times}"
        assert run(database, update, *pair, long_ago, long_ago) == [(True, False, True)]
