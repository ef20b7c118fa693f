"""Migrations that stop at many places: each time they are resumed, and every second time undone before."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import pytest

from tests.integration.database import schema
from usage_worker.errors import MigrationError
from usage_worker.migrate import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from usage_worker.migrate import Migration
    from usage_worker.migrate.verify import Fact

Place = TypeVar("Place")

# `make test` stops at a third of the places, `make test-more`, on an older PostgreSQL, at the others; without the
# variable a test stops at every place.
THIRDS = os.environ.get("TEST_STOPS", "012")


def chosen(places: Sequence[Place]) -> list[Place]:
    """Return the places in those thirds, the last one if there are none."""
    return [place for number, place in enumerate(places) if str(number % 3) in THIRDS] or [*places[-1:]]


class Interruptions(NamedTuple):
    """Interruptions of the way between a lower version and the latest of `files`.

    `state` returns what is compared with `at_latest` after each return there; `older` is the schema of `lower`.
    """

    database: str
    files: Path
    lower: str
    older: set[Fact]
    state: Callable[[], object]
    at_latest: object

    def check(self, migration: Migration, direction: str, texts: Sequence[str]) -> None:
        """Execute chosen texts, which fail somewhere, instead of the migration; resume with its own text."""
        runner, file = Runner(self.database, self.files), self.files / f"{migration.label}.{direction}.sql"
        whole = file.read_text()
        for stop, text in enumerate(chosen(texts)):
            file.write_text(text)
            broken = Runner(self.database, self.files)
            with pytest.raises(MigrationError, match="division by zero"):
                broken.up() if direction == "up" else broken.down(self.lower)
            file.write_text(whole)
            if stop % 2:
                runner.down(self.lower)
                assert schema(self.database) == self.older
            runner.up()
            assert self.state() == self.at_latest
            if direction == "up":
                runner.down(self.lower)
