"""REDIS_URL: a refusal names the wrong part, and never the password."""

from __future__ import annotations

import pytest

from usage_worker.errors import SettingsError
from usage_worker.queue.url import parse_redis_url


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("redis://:hush@h:x/0", "the port"),
        ("http://:hush@h/0", "the scheme"),
        ("redis://:hush@[::1/0", "the host"),
        ("redis://:hush@h/0?db=1&socket_timout=5", "parameter socket_timout,"),
        ("redis://:hush@h/0?socket_timeout=x&db=1", "parameter socket_timeout,"),
        ("rediss://:hush@h/0?ssl_cert_reqs=hush", "parameter ssl_cert_reqs,"),
        ("redis://:1?a&hush=b@h/0", "in a password"),
    ],
)
def test_refusal_names_wrong_part(url: str, part: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL") as refused:
        parse_redis_url(url)
    assert part in str(refused.value)
    assert "hush" not in str(refused.value)
