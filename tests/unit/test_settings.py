"""Which URLs are refused, and that no password shows."""

from __future__ import annotations

import pytest

from usage_worker.errors import SettingsError
from usage_worker.settings import Settings, load_settings

SECRET = "s3cretword"


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("DATABASE_URL", "postgresql://me:x/{}@host/db"),
        ("DATABASE_URL", "postgresql://me:1/{}@host/db"),
        ("DATABASE_URL", "postgresql://me:x@{}@host/db"),
        ("DATABASE_URL", "http://me:{}@host/db"),
        ("REDIS_URL", "redis://:x/{}@host/0"),
        ("REDIS_URL", "redis://:1/{}@host/0"),
        ("REDIS_URL", "redis://:1#{}@host/0"),
        ("REDIS_URL", "redis://:1?{}@host/0"),
    ],
)
def test_password_never_becomes_host_port_or_database(monkeypatch: pytest.MonkeyPatch, variable: str, url: str) -> None:
    monkeypatch.setenv(variable, url.format(SECRET))
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert variable in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("database", "redis"),
    [
        ("postgresql://me:s3cretword@one:1,two:2,[::1]:3/db?sslmode=require", "redis://me:s3cretword@[::1]:6379/0"),
        ("postgres:///db?host=/run/postgresql&password=s3cretword", "unix://:s3cretword@/run/v@lkey.sock?db=2"),
        ("postgresql://me:s3c?ret#word\u2100@host/db?user=a@b", "rediss://:s3cret@word@host?client_name=a@b"),
    ],
)
def test_valid_urls_are_accepted_and_not_shown(database: str, redis: str) -> None:
    settings = Settings(DATABASE_URL=database, REDIS_URL=redis)
    assert (settings.database_url, settings.redis_url) == (database, redis)
    assert "word" not in repr(settings)
