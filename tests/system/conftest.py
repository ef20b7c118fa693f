"""Fixtures of the tests of the doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.system.doctor import Doctor

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: str, redis_url: str) -> Doctor:
    return Doctor(monkeypatch, tmp_path, DATABASE_URL=database, REDIS_URL=redis_url)
