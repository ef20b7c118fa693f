"""Erasures by the command, and events of who is erased."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tests.integration.commands import NOW

if TYPE_CHECKING:
    from tests.integration.commands import Cli


def event(user: object, agent: object, **fields: Any) -> dict[str, Any]:
    return {"event_id": str(uuid4()), "user_id": user, "agent_id": agent, "occurred_at": NOW.isoformat()} | fields


def forget(cli: Cli, *arguments: str) -> dict[str, Any]:
    done = cli.run("forget", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report
