"""Every spelling of a password is masked, and nothing else."""

from __future__ import annotations

from urllib.parse import quote, quote_plus

import pytest

from usage_worker.masking import MASK, Mask

PASSWORD = "a/b:c@d#e?f%g&h+i é'\"\\z"


def masked(text: str, *urls: str) -> str:
    return Mask(list(urls), [])(text)


@pytest.mark.parametrize("url", ["redis://:{}@host/0", "rediss://me:{}@host", "postgresql://me:{}@/db?host=%2Ftmp"])
def test_every_spelling_of_password_is_masked(url: str) -> None:
    for text in (PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD), quote_plus(PASSWORD), repr(PASSWORD)[1:-1]):
        assert masked(f"cannot connect to <{text}>", url.format(quote(PASSWORD, safe=""))) == (
            f"cannot connect to <{MASK}>"
        )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:word@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:wo?r#d@host/db", "postgresql://me:***@host/db"),
        (
            "postgresql://me@host/db?password=word&sslpassword=other",
            "postgresql://me@host/db?password=***&sslpassword=***",
        ),
        ("redis://:wo@rd@host/0?client_name=a@b", "redis://:***@host/0?client_name=a@b"),
        ("rediss://host/0?username=me&password=word", "rediss://host/0?username=me&password=***"),
        ("unix://:word@/run/valkey.sock?db=2", "unix://:***@/run/valkey.sock?db=2"),
        ("redis://host:6379/0", "redis://host:6379/0"),
    ],
)
def test_url_is_shown_without_passwords(url: str, shown: str) -> None:
    assert masked(url, url) == shown


def test_password_inside_longer_word_is_not_masked() -> None:
    url = "postgresql://usage:usage@host/db"
    assert masked("usage_events: no password usage", url) == f"usage_events: no password {MASK}"


def test_without_passwords_nothing_is_masked() -> None:
    assert masked("no :@ at all", "redis://host", "postgresql:///db") == "no :@ at all"
