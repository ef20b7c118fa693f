"""What a worker shows instead of the arguments and results of our tasks."""

from __future__ import annotations

from typing import Any

import pytest

from usage_worker.service.request import HIDDEN, _readable, _shown_arguments
from usage_worker.wording import figures_text

USER = "801f89e3-ec6d-5edc-baac-174308bd9fae"


@pytest.mark.parametrize(
    ("args", "kwargs", "shown"),
    [
        ([[{"user_id": USER}, {"user_id": USER}]], {}, "2 events"),
        ([], {"events": [{"user_id": USER}]}, "1 event"),
        ([{"user_id": USER}], {}, HIDDEN),
        ([], {"events": USER}, HIDDEN),
        (USER, [USER], HIDDEN),
        (None, None, HIDDEN),
    ],
)
def test_many_events_are_only_counted(args: Any, kwargs: Any, shown: str) -> None:
    assert _shown_arguments("usage.track_many", args, kwargs) == (shown, HIDDEN)


@pytest.mark.parametrize("args", [[], [USER], USER, None])
def test_arguments_of_one_event_are_hidden(args: Any) -> None:
    assert _shown_arguments("usage.track", args, {"user_id": USER}) == ("1 event", HIDDEN)


@pytest.mark.parametrize(("args", "kwargs"), [([1, "token"], {}), ([], {"shard": 1, "token": "token"})])
def test_flush_is_shown_by_its_shard(args: Any, kwargs: Any) -> None:
    assert _shown_arguments("usage.flush", args, kwargs) == ("shard 1", "{}")


@pytest.mark.parametrize("args", [[], {}, None, 5, ["x"]])
def test_other_arguments_stay(args: Any) -> None:
    assert _shown_arguments("usage.flush", args, args) is None
    assert _shown_arguments("analytics.hours", args, args) is None


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("{'applied': 3, 'oldest_seconds': 0.1, 'seconds': 2.5}", "applied 3, oldest 0.1 s, seconds 2.5"),
        ("{'created': ['a', 'b'], 'dropped': [], 'failed': {}, 'left': None}", "created 2"),
        ("{'ahead_days': {'usage_events': 7, 'others': 3}}", "ahead_days usage_events=7 others=3"),
        ("{'created': ['a', ...", "{'created': ['a', ..."),
        ("{'created': [], 'busy': False, 'moved': 0}", "busy False, moved 0"),
        ("{'created': []}", "-"),
        ("{'refreshed_at': '2026-01-31T23:00:00+00:00'}", "refreshed_at 2026-01-31 23:00:00 UTC"),
        ("None", "None"),
    ],
)
def test_figures_are_readable(result: str, text: str) -> None:
    assert _readable(result) == text


def test_schedule_leaves_zeros_out() -> None:
    figures = {"purged": 0, "dropped": ["a", "b"], "failed": {}, "oldest_seconds": 2, "ahead": {"usage_events": 7}}
    assert figures_text(figures) == "dropped 2, oldest 2 s, ahead usage_events=7"
    assert figures_text({"purged": 0, "busy": False}) == "-"
