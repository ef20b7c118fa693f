"""Reasons for which events are refused, and their kinds in the metrics."""

from __future__ import annotations

import pytest

from usage_worker.events.refusals import Refusal, kind_of


@pytest.mark.parametrize("refusal", Refusal, ids=lambda it: it.name)
def test_kind_of_each_text_is_the_one_beside_it(refusal: Refusal) -> None:
    """Also where the text is the first of many, and whatever it was made with."""
    for value in ("x", "2026-01-01", "", 7):
        reason = refusal.of(value, value)
        assert kind_of(reason) == refusal.kind
        assert kind_of(f"{reason} (the first of more than 100 bad events of one entry)") == refusal.kind


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("user_id: must be a UUID", "refused_field"),
        ("tokens: the sum of input and output tokens must be at most 9", "refused_field"),
        ("Größe: unknown field", "refused_field"),
        ("event: has 99 fields", "refused_field"),
        ("the entry ended every worker that read it; it was not decoded again", "unreadable"),
        ("too large, only the beginning is kept; events: must be a JSON array", "unreadable"),
        (
            "occurred_at: the ledger has dropped 2026-01-01: an event of this day may have been counted before",
            "too_old",
        ),
        ("PostgreSQL refused a value: no", "other"),
        ("KeyError: 'x'", "other"),
        ("", "other"),
    ],
)
def test_kind_of_a_reason(reason: str, kind: str) -> None:
    assert kind_of(reason) == kind
