"""Migrations that have landed are not edited: their checksums stand in tests/unit/migrations.sha256.

What `verify` expects is not frozen, since a newer PostgreSQL may print a definition differently.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from usage_worker.migrate import discover

CHECKSUMS = Path(__file__).with_name("migrations.sha256")
# To freeze a later version: `cd migrations; sha256sum *.up.sql *.down.sql > ../tests/unit/migrations.sha256`.
FROZEN_VERSIONS = {"1.0.0", "2.0.0", "3.0.0", "4.0.0", "4.1.0", "4.2.0", "4.3.0", "5.0.0", "5.1.0"}


def test_frozen_migrations_are_unchanged() -> None:
    recorded = {name: checksum for checksum, name in map(str.split, CHECKSUMS.read_text().splitlines())}
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for migration in discover()
        if migration.version in FROZEN_VERSIONS
        for path in migration.up.parent.glob(f"{migration.number:03d}_*.sql")
        if not path.name.endswith(".verify.sql")
    }
    assert found == recorded
