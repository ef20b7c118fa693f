"""Totals over HTTP are those of the roll-up and of the ledger."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from tests.integration.database import run
from tests.integration.ledger import date_of
from tests.integration.service import Service, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.conftest import IngestHarness

DOCUMENT = Path(__file__).parents[2] / "docs" / "http.md"
ZERO = {"cached_input_tokens": 0, "cache_write_tokens": 0, "reasoning_tokens": 0}


@pytest.fixture
def service(harness: IngestHarness, database: str, redis_url: str, tmp_path: Path) -> Iterator[Service]:
    """Return a service whose database has uses of three agents on two days."""
    today = datetime.now(UTC)
    for agent, when, model, fields in (
        (0, today, "small", {"cost_usd": "0.0000000001", "response_time_ms": 100, "input_tokens": 5}),
        (0, today, "large", {"cost_usd": "0.1", "response_time_ms": 201, "output_tokens": 7}),
        (1, today - timedelta(days=1), "large", {"success": False, "messages": 3}),
        (2, today - timedelta(days=1), None, {"cost_usd": "2"}),
    ):
        pair = {"user_id": harness.users[0], "agent_id": harness.agents[agent]}
        harness.publish({**pair, "occurred_at": when, "model": model, **fields}, counted=False)
    harness.publish({"user_id": harness.users[1], "agent_id": harness.agents[0], "cost_usd": "5"}, counted=False)
    harness.flush()
    with serving(tmp_path, redis_url, DATABASE_URL=database) as service:
        yield service


def asked(service: Service, **parameters: object) -> list[dict[str, Any]]:
    """Return all rows, asked for page by page, two rows at a time."""
    rows: list[dict[str, Any]] = []
    names = {name.rstrip("_"): str(value) for name, value in parameters.items()}
    while True:
        reply = service.usage(urlencode({"limit": "2", **names}))
        assert reply.status == 200, reply.text
        rows += reply.json["usage"]
        assert len(reply.json["usage"]) <= 2
        if reply.json["cursor"] is None:
            return rows
        names["cursor"] = reply.json["cursor"]


def costs(rows: list[dict[str, Any]], *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in (*columns, "total_cost_usd")) for row in rows]


def test_totals_are_those_of_the_tables(service: Service, harness: IngestHarness, database: str) -> None:
    user = harness.users[0]
    agents = [str(agent) for agent in harness.agents[:3]]
    yesterday, today = date_of(-1), date_of()
    assert asked(service, user_id=user, agent_id=agents[0]) == [
        {
            "usage_count": 2,
            "message_count": 2,
            "success_count": 2,
            "error_count": 0,
            "total_tokens_used": 12,
            "input_tokens": 5,
            "output_tokens": 7,
            **ZERO,
            "total_cost_usd": "0.1000000001",
            "avg_response_time_ms": 150,
        }
    ]
    (failed,) = asked(service, user_id=user, agent_id=agents[1])
    assert [failed[name] for name in ("error_count", "message_count", "avg_response_time_ms")] == [1, 3, None]
    days = asked(service, user_id=user, group_by="day")
    assert costs(days, "day") == [(f"{yesterday}", "2.0000000000"), (f"{today}", "0.1000000001")]
    assert costs(asked(service, user_id=user, group_by="agent,day"), "day", "agent_id") == sorted(
        [
            (f"{yesterday}", agents[1], "0.0000000000"),
            (f"{yesterday}", agents[2], "2.0000000000"),
            (f"{today}", agents[0], "0.1000000001"),
        ]
    )
    models = asked(service, user_id=user, group_by="model,day")
    assert costs(models, "day", "model") == [
        (f"{yesterday}", None, "2.0000000000"),
        (f"{yesterday}", "large", None),
        (f"{today}", "large", "0.1000000000"),
        (f"{today}", "small", "0.0000000001"),
    ]
    users = sorted([(str(user), "2.1000000001"), (str(harness.users[1]), "5.0000000000")])
    assert costs(asked(service, group_by="user"), "user_id") == users
    assert asked(service, user_id=user, to=date_of(-2)) == []
    assert costs(asked(service, user_id=user, from_="0001-01-01", to="9999-12-31")) == [("2.1000000001",)]
    assert costs(asked(service, from_=yesterday, to=yesterday)) == [("2.0000000000",)]

    documented = next(text for text in DOCUMENT.read_text("utf-8").split("\n\n") if '{"from"' in text).strip("`json\n")
    reply = service.usage(f"user_id={user}&group_by=day")
    (row, *_), (shown,) = reply.json["usage"], json.loads(documented)["usage"]
    assert (list(reply.json), list(row)) == (list(json.loads(documented)), list(shown))

    # The usage of a pair that was deleted stays, in both tables.
    run(database, "DELETE FROM user_agents WHERE agent_id = %s", harness.agents[2])
    assert costs(asked(service, user_id=user, group_by="day"), "day") == costs(days, "day")
    assert asked(service, user_id=user, group_by="model,day") == models

    run(database, "ALTER TABLE usage_daily RENAME TO usage_hidden")
    reply = service.usage()
    assert (reply.status, reply.headers["Retry-After"]) == (503, "5")
    assert "usage_daily" not in reply.text
    assert any("usage_daily" in line["event"] for line in service.lines())

    for name in ("user_id", "agent_id"):
        for text in ("%FF", "%E2%82"):
            reply = service.usage(f"{name}={text}")
            assert (reply.status, reply.json) == (400, {"error": "is not UTF-8", "field": name})

    reply = service.usage("user_id=42")
    reason = "must be a UUID, or an id of your own that events have named"
    assert (reply.status, reply.json) == (400, {"error": reason, "field": "user_id"})
