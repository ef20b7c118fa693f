"""What `usage-worker up` takes from its settings: the policy for unknown users and agents, and how many processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from usage_worker.cli.up import _exports
from usage_worker.local.servers import Servers
from usage_worker.local.supervisor import Supervisor
from usage_worker.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

OWN = {"DATABASE_URL": "postgresql:///own"}


@pytest.mark.parametrize(
    ("given", "embedded", "policy"),
    [
        ({}, OWN, "create"),
        ({"USAGE_UNKNOWN": "create"}, OWN, "create"),
        ({"USAGE_UNKNOWN": "quarantine"}, OWN, "quarantine"),
        ({"USAGE_UNKNOWN": "create"}, {}, None),
        ({}, {"REDIS_URL": "unix:///own"}, None),
    ],
)
def test_own_servers_create_unknown_pairs_by_default(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], embedded: dict[str, str], policy: str | None
) -> None:
    monkeypatch.delenv("USAGE_UNKNOWN", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    servers = Servers(settings)
    servers.exports.update(embedded)
    assert _exports(servers, settings).get("USAGE_UNKNOWN") == policy


def test_file_says_how_many_shards_need_a_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("USAGE_STREAM_SHARDS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("USAGE_STREAM_SHARDS=5\n")
    worker = Supervisor("postgresql:///own", "redis://127.0.0.1", flower_port=None)._plan(tmp_path)[0]
    assert worker.command[-2:] == ["--concurrency", "6"]
