"""Migrations that stop at many places: each time they are resumed, and every second time undone before."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.integration.database import schema
from usage_worker.errors import MigrationError
from usage_worker.migrate import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from usage_worker.migrate import Migration
    from usage_worker.migrate.verify import Fact


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

    def check(self, migration: Migration, direction: str, texts: Iterable[str]) -> None:
        """Execute each of the texts, which fail somewhere, instead of the migration; resume with its own text."""
        runner, file = Runner(self.database, self.files), self.files / f"{migration.label}.{direction}.sql"
        whole = file.read_text()
        for stop, text in enumerate(texts):
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
