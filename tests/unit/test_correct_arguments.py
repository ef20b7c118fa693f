"""Arguments of `usage-worker correct` that are refused before any server is asked."""

from __future__ import annotations

import pytest

from tests.helpers import free_port
from usage_worker.cli.correct import correct
from usage_worker.cli.publishing import assignments
from usage_worker.errors import ArgumentError


@pytest.fixture(autouse=True)
def _no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me@127.0.0.1:{free_port()}/none")


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("reason", ["", 501 * "x", "a\x00b", "a\ud800"], ids=["empty", "long", "U+0000", "surrogate"])
def test_reason_that_no_history_can_keep(reason: str, dry_run: bool) -> None:
    with pytest.raises(ArgumentError, match="--reason: give 1 to 500 characters without"):
        correct("order 17", ["messages=2"], reason=reason, dry_run=dry_run)


def test_event_without_a_name() -> None:
    with pytest.raises(ArgumentError, match="EVENT: is empty; give the event_id"):
        correct("", ["messages=2"], dry_run=True)


def test_field_is_set_once() -> None:
    with pytest.raises(ArgumentError, match="--set messages: is given twice; keep one of them"):
        correct("order 17", ["messages=2", "model=a", "messages=2"])


@pytest.mark.parametrize("text", ["=1", "=", "messages", ""])
def test_assignment_without_a_field_or_equals_sign(text: str) -> None:
    with pytest.raises(ArgumentError, match=f"--set {text}: write FIELD=VALUE"):
        assignments("--set", [text])


def test_assignments_keep_their_order_and_empty_values() -> None:
    assert assignments("--map", ["model=a=b", "provider="]) == {"model": "a=b", "provider": ""}
