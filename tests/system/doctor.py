"""What `usage-worker doctor` says, asked in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.monitoring.doctor import diagnose

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

NOWHERE = {"DATABASE_URL": "postgresql://127.0.0.1:1/nowhere", "REDIS_URL": "redis://127.0.0.1:1/0"}
POSTGRESQL_CHECKS = {
    *("schema", "database_role", "definitions", "sizes", "dead_rows", "hot_updates", "invalid_indexes", "autovacuum"),
    *("old_snapshots", "replication_slots", "prepared_transactions", "connections", "postgresql_disk"),
}
REDIS_CHECKS = {
    *("redis_memory", "flush", "beat", "redis_version", "redis_user", "append_only", "append_fsync", "redis_writes"),
    *("maxmemory", "worker_versions", "redis_disk"),
}


class Doctor:
    """What the doctor says with some variables, in an empty folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, **variables: str) -> None:
        self._monkeypatch = monkeypatch
        monkeypatch.chdir(folder)
        self.set(**variables)

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self._monkeypatch.setenv(name, value)

    def ask(self) -> dict[str, str]:
        """Return state, reason and remedy of each check."""
        return {check.name: f"{check.state}: {check.reason}: {check.remedy}" for check in diagnose().checks}

    def said(self, name: str) -> str:
        return self.ask()[name]


def states(said: dict[str, str], names: set[str] | None = None) -> dict[str, str]:
    """Return the states of some checks, or of all."""
    return {name: text.partition(":")[0] for name, text in said.items() if names is None or name in names}


def unanswered(said: dict[str, str], names: set[str]) -> set[str]:
    """Return which of the checks are unknown."""
    return {name for name, state in states(said, names).items() if state == "unknown"}
