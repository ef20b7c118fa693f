"""The service answers as its OpenAPI document says: schemathesis sends what fits the document, and what does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.service import READER, WRITER, Service, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = str(Path(sys.executable).with_name("schemathesis"))


@pytest.fixture(params=["uuid", "uuid5"])
def service(request: pytest.FixtureRequest, database: str, redis_url: str, tmp_path: Path) -> Iterator[Service]:
    with serving(tmp_path, redis_url, DATABASE_URL=database, USAGE_IDS=request.param) as service:
        yield service


def check(service: Service, folder: Path, key: str, *options: str) -> None:
    """Run schemathesis with a key; it must find nothing."""
    url = f"http://127.0.0.1:{service.port}"
    command = [PROGRAM, "run", f"{url}/openapi.json", "--url", url, "--header", f"Authorization: Bearer {key}"]
    done = subprocess.run(
        [*command, "--continue-on-failure", "--seed", "1", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]


def test_events(service: Service, tmp_path: Path) -> None:
    """The document cannot say how fields depend on each other, and a request with one good event is accepted."""
    without = ("--exclude-checks", "positive_data_acceptance,negative_data_rejection")
    check(service, tmp_path, WRITER[0], "--include-path", "/api/v1/events", "--max-examples", "50", *without)
    assert any(line.get("status") == 202 for line in service.lines())


def test_everything_else(service: Service, tmp_path: Path) -> None:
    """The document can say neither that a cursor was an answer's, nor that one day is not later than the other."""
    without = ("--exclude-checks", "positive_data_acceptance")
    check(service, tmp_path, READER[0], "--exclude-path", "/api/v1/events", "--max-examples", "50", *without)
