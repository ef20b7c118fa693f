"""Fixtures of the doctor and of the pages: a browser, and a database of which they show days."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import new_database
from tests.integration.conftest import cli, forgetter, harness, make_resources
from tests.system.doctor import Doctor
from tests.system.pages import fill
from tools.screenshot.chromium import Tab, chromium

__all__ = ["cli", "forgetter", "harness", "make_resources"]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers import Postgres


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: str, redis_url: str) -> Doctor:
    return Doctor(monkeypatch, tmp_path, DATABASE_URL=database, REDIS_URL=redis_url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Tab]:
    with chromium() as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab) -> Tab:
    browser.set_width(1200)
    browser.set_scheme("light")
    return browser


@pytest.fixture(scope="module")
def filled(postgres: Postgres, template_database: Callable[[], str]) -> Iterator[str]:
    """Yield a database with events of the last days."""
    with new_database(postgres, template_database()) as name:
        fill(postgres.url(name))
        yield postgres.url(name)
