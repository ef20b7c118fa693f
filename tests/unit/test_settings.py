"""Settings are checked, and no password is shown."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from usage_worker.errors import SettingsError
from usage_worker.settings import PublisherSettings, Settings, load_publisher_settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "s3cretword"
# Long enough for each key.
LONG = "s3cretword" * 4
SECRETS = [
    "DATABASE_URL",
    "USAGE_REPORT_DATABASE_URL",
    "REDIS_URL",
    "USAGE_REDIS_URL",
    "USAGE_API_KEYS",
    "USAGE_EMBEDDER_KEY",
    "USAGE_FORGET_KEY",
]


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("DATABASE_URL", "postgresql://me:x/{}@host/db"),
        ("DATABASE_URL", "postgresql://me:1/{}@host/db"),
        ("DATABASE_URL", "postgresql://me:x@{}@host/db"),
        ("DATABASE_URL", "http://me:{}@host/db"),
        ("DATABASE_URL", "postgresql://me:1@one:5432,me:{}@two:5432/db"),
        ("USAGE_REPORT_DATABASE_URL", "postgresql://me:1/{}@host/db"),
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


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("USAGE_STREAM_SHARDS", "0"),
        ("USAGE_BATCH_EVENTS", SECRET),
        ("USAGE_FLUSH_INTERVAL", "0"),
        ("USAGE_FLUSH_INTERVAL", "0.09"),
        ("USAGE_ACCEPT_DAYS", "36501"),
        ("USAGE_PARTITIONS_AHEAD_DAYS", "1"),
        ("USAGE_UNKNOWN", SECRET),
        ("USAGE_TIMEZONE", "Mars/Olympus"),
        ("USAGE_TIMEZONE", "localtime"),
        ("USAGE_TIMEZONE", "posix/Europe/Berlin"),
        ("USAGE_LOG_LEVEL", SECRET),
        ("USAGE_RECLAIM_IDLE", "1e-9"),
        ("USAGE_PURGE_BUDGET", "1e-9"),
        ("USAGE_RECONCILE_BUDGET", "0"),
        ("USAGE_GRAPH_MIN_USERS", "2147483648"),
    ],
)
def test_value_out_of_range_names_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"{variable}: ") as refused:
        load_settings()
    assert SECRET not in str(refused.value)


def test_ledger_must_outlast_acceptance_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USAGE_ACCEPT_DAYS", "35")
    monkeypatch.setenv("USAGE_RETENTION_DAYS", "35")
    with pytest.raises(SettingsError, match="USAGE_RETENTION_DAYS must be greater than USAGE_ACCEPT_DAYS"):
        load_settings()
    monkeypatch.setenv("USAGE_RETENTION_DAYS", "36")
    assert load_settings().accept_window == timedelta(days=35)


def test_file_supplies_settings_missing_in_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("USAGE_STREAM_SHARDS=7\nUSAGE_BATCH_EVENTS=8\nOTHER=9\n")
    monkeypatch.delenv("USAGE_STREAM_SHARDS", raising=False)
    monkeypatch.setenv("USAGE_BATCH_EVENTS", "80")
    settings = load_settings()
    assert (settings.stream_shards, settings.batch_events) == (7, 80)


def test_file_that_is_no_text_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=r"\.env: .*not text in UTF-8$"):
        load_settings()


@pytest.mark.skipif(sys.platform != "linux", reason="a file that not even root can read")
def test_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").symlink_to("/proc/self/mem")
    with pytest.raises(SettingsError, match=r"\.env: .*Input/output error$"):
        load_settings()


@pytest.mark.parametrize(
    "variable", ["DATABASE_URL", "REDIS_URL", "USAGE_REDIS_URL", "USAGE_API_KEYS", "USAGE_FORGET_KEY"]
)
def test_secret_stands_in_named_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    text = {"DATABASE_URL": "postgresql://me@host/db", "USAGE_API_KEYS": "a", "USAGE_FORGET_KEY": "k" * 32}.get(
        variable, "redis://host"
    )
    (tmp_path / "secret").write_text(f"{text}\n")
    for name in ("DATABASE_URL", "REDIS_URL", "USAGE_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(f"{variable}_FILE", str(tmp_path / "secret"))
    settings = load_settings()
    assert text in (settings.database_url, settings.redis_url, settings.api_keys, settings.forget_key)
    monkeypatch.setenv(variable, f"{text}1")
    settings = load_settings()
    assert f"{text}1" in (settings.database_url, settings.redis_url, settings.api_keys, settings.forget_key)


@pytest.mark.parametrize("variable", SECRETS)
@pytest.mark.parametrize("content", [None, b"\xff", "folder", "/dev/zero"])
def test_unreadable_secret_names_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, content: bytes | str | None
) -> None:
    file = tmp_path / "secret"
    match content:
        case bytes():
            file.write_bytes(content)
        case "folder":
            file.mkdir()
        case str():
            file = Path(content)
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(f"{variable}_FILE", str(file))
    with pytest.raises(SettingsError, match=rf"wrong: {variable}_FILE: .+: {file}$"):
        load_settings()


@pytest.mark.parametrize("variable", SECRETS)
@pytest.mark.parametrize(
    "value",
    [
        "postgresql://me:s3cretword@host/db",
        "unix://:s3cretword@/run/valkey.sock",
        "s3cretword",
        "/s3cretword",
        "s3cretword" * 1000,
        "application:write:s3cretword",
        "tests/unit/../s3cretword",
        "pyproject.toml/s3cretword",
        "/s3cretword\0",
    ],
)
def test_value_in_place_of_a_path_is_not_quoted(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setattr(os, "environ", {f"{variable}_FILE": value})
    with pytest.raises(SettingsError, match=f"wrong: {variable}_FILE: .+must be the path of a file") as refused:
        load_settings()
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("content", ["", "\n", " \r\n"])
@pytest.mark.parametrize(
    ("load", "variable"),
    [
        *((load_settings, variable) for variable in SECRETS),
        *((load_publisher_settings, variable) for variable in ("REDIS_URL", "USAGE_REDIS_URL")),
    ],
)
def test_empty_file_of_a_secret_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    load: Callable[[], PublisherSettings],
    variable: str,
    content: str,
) -> None:
    file = tmp_path / "secret"
    file.write_text(content)
    monkeypatch.setattr(os, "environ", {f"{variable}_FILE": str(file)})
    with pytest.raises(SettingsError, match=f"wrong: {variable}_FILE: this file is empty: {file}$"):
        load()


@pytest.mark.parametrize(("interval", "expires"), [(0.5, 2.0), (1.0, 2.0), (30.0, 60.0)])
def test_ticks_expire_after_two_intervals(interval: float, expires: float) -> None:
    assert Settings(flush_interval=interval).trigger_expires == expires


def test_missing_database_names_its_variable() -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL is not set"):
        Settings(DATABASE_URL="").require_database()


FIRST, SECOND = "redis://first:6379/0", "redis://second:6379/0"


@pytest.fixture(autouse=True)
def no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USAGE_REDIS_URL", "REDIS_URL", "USAGE_DISABLED"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("load", [load_settings, load_publisher_settings])
@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"REDIS_URL": SECOND}, SECOND),
        ({"USAGE_REDIS_URL": FIRST, "REDIS_URL": SECOND}, FIRST),
        ({"USAGE_REDIS_URL": FIRST, "REDIS_URL": "sentinel://elsewhere"}, FIRST),
        ({"USAGE_REDIS_URL": "", "REDIS_URL": SECOND}, SECOND),
    ],
)
def test_own_variable_goes_before_that_of_the_application(
    monkeypatch: pytest.MonkeyPatch, load: Callable[[], PublisherSettings], environment: dict[str, str], url: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load().redis_url == url


@pytest.mark.parametrize("load", [load_settings, load_publisher_settings])
@pytest.mark.parametrize(
    "environment",
    [
        {"USAGE_REDIS_URL": FIRST, "USAGE_REDIS_URL_FILE": "/nowhere"},
        {"USAGE_REDIS_URL": FIRST, "REDIS_URL_FILE": "/nowhere"},
        {"REDIS_URL": FIRST, "REDIS_URL_FILE": "/nowhere"},
        {"REDIS_URL": FIRST, "REDIS_URL_FILE": "/nowhere", "USAGE_REDIS_URL_FILE": ""},
    ],
)
def test_file_that_is_not_needed_is_not_read(
    monkeypatch: pytest.MonkeyPatch, load: Callable[[], PublisherSettings], environment: dict[str, str]
) -> None:
    monkeypatch.setattr(os, "environ", environment)
    assert load().redis_url == FIRST


@pytest.mark.parametrize(
    ("environment", "lines"),
    [
        ({"DATABASE_URL": "postgresql://one/a"}, "DATABASE_URL_FILE=/nowhere"),
        ({"DATABASE_URL_FILE": "url"}, "DATABASE_URL_FILE=/nowhere"),
        ({"DATABASE_URL_FILE": "url"}, "DATABASE_URL=postgresql://two/b"),
        ({"DATABASE_URL": ""}, "DATABASE_URL_FILE=url"),
    ],
)
def test_file_of_the_settings_is_read_where_the_environment_has_neither_form(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], lines: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"{lines}\n")
    (tmp_path / "url").write_text("postgresql://one/a\n")
    monkeypatch.setattr(os, "environ", environment)
    assert load_settings().database_url == "postgresql://one/a"


@pytest.mark.parametrize("environment", [{"USAGE_API_KEYS": ""}, {"USAGE_API_KEYS": "", "USAGE_API_KEYS_FILE": ""}])
@pytest.mark.parametrize("lines", ["USAGE_API_KEYS=a", "USAGE_API_KEYS_FILE=keys"])
def test_empty_secret_counts_as_not_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], lines: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"{lines}\n")
    (tmp_path / "keys").write_text("a\n")
    monkeypatch.setattr(os, "environ", environment)
    assert load_settings().api_keys == "a"


@pytest.mark.parametrize("variable", ["USAGE_REDIS_URL", "REDIS_URL"])
@pytest.mark.parametrize("load", [load_settings, load_publisher_settings])
def test_wrong_url_names_the_variable_that_has_it(
    monkeypatch: pytest.MonkeyPatch, load: Callable[[], PublisherSettings], variable: str
) -> None:
    monkeypatch.setenv(variable, f"http://:{SECRET}@host")
    with pytest.raises(SettingsError) as refused:
        load()
    assert str(refused.value) == f"a setting is wrong: {variable}: must begin with redis:// or rediss:// or unix://"


def test_environment_goes_before_file_whichever_variable_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"export USAGE_REDIS_URL='{FIRST}'  # ours\nUSAGE_POOLED\n")
    assert (load_settings().redis_url, load_publisher_settings().redis_url) == (FIRST, "")
    monkeypatch.setenv("REDIS_URL", SECOND)
    assert load_settings().redis_url == SECOND


def test_worker_has_a_default_url_and_publisher_none() -> None:
    assert (load_settings().redis_url, load_publisher_settings().redis_url) == ("redis://127.0.0.1:6379/0", "")
    assert "redis_url" not in load_settings().model_fields_set


@pytest.mark.parametrize(
    ("text", "given", "disabled"),
    [
        *[(text, None, True) for text in ("1", "true", "True", "yes", "on")],
        *[(text, None, False) for text in ("0", "false", "FALSE", "no", "off", None)],
        ("1", False, False),
        ("0", True, True),
    ],
)
def test_switch(monkeypatch: pytest.MonkeyPatch, text: str | None, given: bool | None, disabled: bool) -> None:
    monkeypatch.setenv("REDIS_URL", FIRST)
    if text is not None:
        monkeypatch.setenv("USAGE_DISABLED", text)
    settings = load_publisher_settings(disabled=given)
    assert (settings.disabled, settings.redis_url) == (disabled, "" if disabled else FIRST)


def test_wrong_switch_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USAGE_DISABLED", SECRET)
    with pytest.raises(SettingsError, match="USAGE_DISABLED: Input should be a valid boolean") as refused:
        load_publisher_settings()
    assert SECRET not in str(refused.value)


def test_wrong_argument_is_named_like_the_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", FIRST)
    with pytest.raises(SettingsError, match="wrong: redis_url: must begin with"):
        load_publisher_settings("http://elsewhere")


@pytest.mark.parametrize("given", [{"redis_url": "http://elsewhere"}, {}])
def test_url_of_a_disabled_publisher_is_not_checked(monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]) -> None:
    monkeypatch.setenv("REDIS_URL", "sentinel://elsewhere")
    monkeypatch.setenv("USAGE_REDIS_URL_FILE", "/nowhere")
    assert load_publisher_settings(**given, disabled=True).redis_url == ""


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("USAGE_EMBEDDER_URL", "https://me:s3cretword@host/v1"),
        ("USAGE_EMBEDDER_URL", "https://s3cretword@host/v1"),
        ("USAGE_EMBEDDER_URL", "https://host:s3cretword/v1"),
        ("USAGE_EMBEDDER_URL", "https://host/v1?key=s3cretword"),
        ("USAGE_EMBEDDER_URL", "https://host/v1#s3cretword"),
        ("USAGE_EMBEDDER_URL", "https://host/v 1/s3cretword"),
        ("USAGE_EMBEDDER_URL", "https://host:65536/s3cretword"),
        ("USAGE_EMBEDDER_URL", "file:///s3cretword"),
        ("USAGE_EMBEDDER_URL", "s3cretword"),
        ("USAGE_EMBEDDER_KEY", "s3cretword\n"),
        ("USAGE_EMBEDDER_KEY", "s3cretword \u00e4"),
    ],
)
def test_address_and_key_of_a_service_are_checked_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert str(refused.value).startswith(f"a setting is wrong: {variable}: ")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "fields", [{"embedder_url": "https://[::1]:8080/v1", "embedder_key": LONG}, {"forget_key": LONG}]
)
def test_key_is_not_shown(fields: dict[str, str]) -> None:
    settings = Settings.model_validate(fields)
    assert LONG not in repr(settings)
    assert settings.mask(f"Bearer {LONG}") == "Bearer ***"


@pytest.mark.parametrize("value", ["s3cretword", "s3cretword" * 4 + " ", "s3cretwordä" * 4])
def test_key_of_erasure_is_checked_and_not_quoted(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("USAGE_FORGET_KEY", value)
    with pytest.raises(SettingsError, match="wrong: USAGE_FORGET_KEY: must be at least 32 characters") as refused:
        load_settings()
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("USAGE_RETENTION_DAYS", "1000000"),
        ("USAGE_HISTORY_RETENTION_DAYS", "1000000"),
        ("USAGE_HOURLY_RETENTION_DAYS", "1000000"),
        ("USAGE_RECLAIM_IDLE", "inf"),
        ("USAGE_FLUSH_BUDGET", "inf"),
        ("USAGE_PURGE_BUDGET", "inf"),
        ("USAGE_RECONCILE_BUDGET", "inf"),
    ],
)
def test_time_that_cannot_be_reckoned_with_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """Whoever wants to keep something for ever has a hundred years."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"{variable}: .*less than or equal to"):
        load_settings()
