"""`usage-worker doctor`: its checks of the settings, provoked without a server or with wrong settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.commands import SECRET
from tests.system.doctor import NOWHERE, Doctor, states
from usage_worker.monitoring.doctor import DOCTOR_CHECKS

if TYPE_CHECKING:
    from pathlib import Path


def test_settings(doctor: Doctor, tmp_path: Path) -> None:
    assert doctor.said("unknown_variables") == "ok: USAGE_… variables set: 0, all known: "
    doctor.set(USAGE_RETENTION_DAY="40", USAGE_ACCEPT_DAYS="30")
    (tmp_path / ".env").write_text(f"USAGE_XYZZY={SECRET}\n")
    said = doctor.said("unknown_variables")
    assert said.startswith("warn: nothing reads USAGE_RETENTION_DAY; nothing reads USAGE_XYZZY: ")
    assert "USAGE_RETENTION_DAY: write USAGE_RETENTION_DAYS; USAGE_XYZZY: unset it" in said
    assert SECRET not in said
    assert "ACCEPT_DAYS" not in said


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"USAGE_HOURLY_RETENTION_DAYS": "30"}, "USAGE_RETENTION_DAYS=90"),
        ({"USAGE_ACCEPT_DAYS": "400", "USAGE_RETENTION_DAYS": "500"}, "lower it to 366"),
        ({"USAGE_SCHEDULE_PARTITIONS": "off"}, "the ledger grows"),
        ({"USAGE_EMBEDDER": "none", "USAGE_SCHEDULE_EMBED": "off"}, "new agents get no vectors"),
        ({"USAGE_EMBEDDER_MODEL": "m"}, "USAGE_EMBEDDER_MODEL without USAGE_EMBEDDER"),
    ],
)
def test_settings_that_contradict_each_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], named: str
) -> None:
    said = Doctor(monkeypatch, tmp_path, **NOWHERE, **variables).said("contradictions")
    assert said.startswith("warn: ")
    assert named in said


def test_wrong_settings_leave_the_checks_of_this_process(doctor: Doctor) -> None:
    doctor.set(USAGE_ACCEPT_DAYS="90", USAGE_ACEPT_DAYS="1")
    said = doctor.ask()
    assert list(said) == list(DOCTOR_CHECKS)
    known = {name: state for name, state in states(said).items() if state != "unknown"}
    assert known == {"settings": "fail", "unknown_variables": "warn", "packages": "ok"}
    assert "USAGE_RETENTION_DAYS must be greater than USAGE_ACCEPT_DAYS" in said["settings"]


def test_embedder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    doctor = Doctor(monkeypatch, tmp_path, **NOWHERE)
    said = doctor.ask()
    assert said["embedder"].startswith("ok: none is set")
    assert said["contradictions"].startswith("ok: ")
    doctor.set(USAGE_EMBEDDER="minilm")
    said = doctor.ask()
    assert said["embedder"].startswith("ok: ")
    assert "vectors of 384 numbers" in said["embedder"]
    doctor.set(USAGE_EMBEDDER_PATH=str(tmp_path / "nothing.onnx"))
    assert doctor.said("embedder").startswith("warn: ")
    doctor.set(USAGE_EMBEDDER="miniml")
    assert "there is no embedder 'miniml'" in doctor.said("embedder")
