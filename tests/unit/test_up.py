"""The policy of `usage-worker up` for unknown users and agents depends on where its servers come from."""

from __future__ import annotations

import pytest

from usage_worker.cli.up import _exports
from usage_worker.local.servers import Servers
from usage_worker.settings import load_settings

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
