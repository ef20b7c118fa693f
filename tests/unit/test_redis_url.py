"""REDIS_URL: a refusal names the wrong part, and never the password."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from redis.exceptions import BusyLoadingError

from usage_worker.errors import SettingsError
from usage_worker.masking import Mask
from usage_worker.queue.connection import unavailable
from usage_worker.queue.stream import EventStream
from usage_worker.queue.url import parse_redis_url
from usage_worker.service.broker import broker_settings
from usage_worker.settings import load_publisher_settings

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")


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
        ("redis://:hush@h?socket_timeout=1e12", "parameter socket_timeout,"),
        ("redis://:hush@h/abc", "number of a database"),
        ("redis://:hush@h/1/2", "number of a database"),
        ("redis://:hush@h/-1", "number of a database"),
        ("redis://:hush@h?db=-1", "parameter db,"),
        ("redis://:hush@h?host=other", "parameter host,"),
        ("redis://:hush@h?path=/hush", "parameter path,"),
        ("redis://:hush@h?max_connections=5", "parameter max_connections,"),
        ("redis://:hush@h?retry=1", "parameter retry,"),
        ("redis://:hush@h?timeout=3", "parameter timeout,"),
        ("redis://:hush@h?credential_provider=hush", "parameter credential_provider,"),
        ("redis://:hush@h?connection_class=hush", "parameter connection_class,"),
        ("redis://:hush@h?socket_timeout=0", "parameter socket_timeout,"),
        ("redis://:hush@h?socket_timeout=-3", "parameter socket_timeout,"),
        ("redis://:hush@h?socket_timeout=nan", "parameter socket_timeout,"),
        ("redis://:hush@h?socket_connect_timeout=inf", "parameter socket_connect_timeout,"),
        ("redis://:hush@h?health_check_interval=-1", "parameter health_check_interval,"),
        ("redis://:hush@h?protocol=hush", "parameter protocol,"),
        ("redis://:hush@h?ssl_ca_certs=/ca.pem", "ssl_ca_certs is for rediss:// only"),
        ("rediss://:hush@h?ssl_validate_ocsp=true", "parameter ssl_validate_ocsp,"),
        ("unix://:hush@/s?socket_keepalive=1", "socket_keepalive is not for a Unix socket"),
        ("unix://:hush@/s?socket_connect_timeout=1", "socket_connect_timeout is not for a Unix socket"),
        ("unix://:hush@/s?ssl_cert_reqs=none", "ssl_cert_reqs is for rediss:// only"),
        ("unix://:hush@run/s", "unix:///path"),
        ("unix://", "unix:///path"),
        ("redis://:hush@a:1,b:2/0", "the host"),
        ("redis+sentinel://:hush@a:1,b:x/0", "the port"),
        ("redis+sentinel://:hush@a,,b/0", "write the hosts as redis+sentinel://one,two,three"),
        ("redis+sentinel:///0", "write the hosts"),
        ("redis+sentinel://:hush@a,b/hush", "number of a database"),
        ("sentinel://:hush@a,b/0?socket_timout=5", "parameter socket_timout,"),
        ("sentinel://:hush@a,b/0?sentinel_pasword=hush", "parameter sentinel_pasword,"),
        ("sentinel://:hush@a:1;sentinel://b:1", "write the hosts as"),
        ("sentinel://:hush@a;b:1", "write the hosts as sentinel://one,two,three"),
        ("redis+sentinel://:hush@a?ssl_ca_certs=/ca.pem", "ssl_ca_certs is for rediss+sentinel:// only"),
        ("redis://:hush@a?sentinel_password=hush", "sentinel_password is for redis+sentinel:// only"),
        ("redis+cluster://:hush@a?sentinel_password=hush", "sentinel_password is for redis+sentinel:// only"),
        ("redis+cluster://:hush@a,b/1", "the database 0 only"),
        ("redis+cluster://:hush@a,b?db=1", "the database 0 only"),
        ("redis+cluster://:hush@a?ssl_cert_reqs=none", "ssl_cert_reqs is for rediss+cluster:// only"),
        ("redis+cluster://:1?a&hush=b@h/0", "in a password"),
    ],
)
def test_refusal_names_wrong_part(url: str, part: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL") as refused:
        parse_redis_url(url)
    assert part in str(refused.value)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    "query",
    [
        "protocol=3&decode_responses=true&legacy_responses=false",
        "encoding=latin1&encoding_errors=ignore&retry_on_timeout=true&retry_on_error=x",
    ],
)
@pytest.mark.parametrize(
    "base", ["redis://h/0", "rediss://h/0", "unix:///s", "redis+sentinel://h,i/0", "rediss+cluster://h"]
)
def test_parameters_that_clients_set_themselves_are_ignored(base: str, query: str) -> None:
    assert parse_redis_url(f"{base}?{query}") == parse_redis_url(base)
    EventStream(f"{base}?{query}", 1).close()


@pytest.mark.parametrize(
    ("url", "parameters"),
    [
        ("redis://h?db=3&socket_timeout=3", {"host": "h", "db": 3, "socket_timeout": 3.0}),
        ("redis://h/2?health_check_interval=0", {"host": "h", "db": 2, "health_check_interval": 0}),
        ("redis://h?socket_keepalive=false", {"host": "h", "socket_keepalive": False}),
        ("redis://h?", {"host": "h"}),
        ("rediss://h?ssl_check_hostname=false", {"host": "h", "ssl_check_hostname": False}),
        ("unix://:w%40rd@/s?db=2", {"path": "/s", "password": "w@rd", "db": 2}),
        ("redis://h?password=a%40b", {"host": "h", "password": "a@b"}),
    ],
)
def test_parameters_are_taken(url: str, parameters: dict[str, object]) -> None:
    assert parse_redis_url(url).parameters == parameters


@pytest.mark.parametrize(
    ("url", "kind", "hosts", "parameters"),
    [
        ("redis://h:1/2", "server", [("h", 1)], {"host": "h", "port": 1, "db": 2}),
        ("redis://", "server", [("localhost", 6379)], {}),
        ("unix:///s", "server", [], {"path": "/s"}),
        ("redis+sentinel://a:1,b/3", "sentinel", [("a", 1), ("b", 26379)], {"db": 3}),
        (
            "sentinel://u:w%2Cd@a,[::1]:5?socket_timeout=2",
            "sentinel",
            [("a", 26379), ("::1", 5)],
            {"username": "u", "password": "w,d", "socket_timeout": 2.0},
        ),
        ("redis+cluster://:w,rd@a,b:7/0", "cluster", [("a", 6379), ("b", 7)], {"password": "w,rd"}),
    ],
)
def test_hosts(url: str, kind: str, hosts: list[tuple[str, int]], parameters: dict[str, object]) -> None:
    load_publisher_settings(url)
    address = parse_redis_url(url)
    assert (address.kind, list(address.hosts), address.parameters) == (kind, hosts, parameters)


def test_sentinels_have_a_login_of_their_own() -> None:
    url = "rediss+sentinel://u:w@a,b/1?sentinel_password=x%40y&sentinel_username=s"
    address = parse_redis_url(url)
    assert address.tls
    assert address.parameters == {"username": "u", "password": "w", "db": 1}
    assert address.sentinel_login == {"username": "s", "password": "x@y"}
    assert "x@y" not in Mask([url], [])("x@y x%40y")


@pytest.mark.parametrize("url", ["redis+cluster://:hush@a:1,b:x", "sentinel://u:hu/sh@a,b", "redis+clusters://:hush@a"])
def test_settings_refuse_hosts(url: str) -> None:
    with pytest.raises(SettingsError, match="redis_url: ") as refused:
        load_publisher_settings(url)
    assert "hu" not in str(refused.value)


def test_documents_list_every_parameter() -> None:
    section = OPERATIONS.split("\n### REDIS_URL\n")[1].split("\n### ")[0]
    table, ignored = section.split("\n|---|---|\n")[1].split("\n\n")[:2]
    taken = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    values = {"db": "1", "health_check_interval": "1", "ssl_min_version": "771", "ssl_cert_reqs": "none"}
    for name in taken - {"sentinel_username", "sentinel_password"}:
        url = f"rediss://h?{name}={values.get(name, '1')}"
        assert name in parse_redis_url(url).parameters
        assert name in broker_settings(url).get("broker_use_ssl", {}) or not name.startswith("ssl_")
    for name in re.findall(r"`(\w+)`", ignored.split(" are\nignored")[0].split(" are ignored")[0]):
        assert name not in parse_redis_url(f"redis://h?{name}=1").parameters


@pytest.mark.parametrize("product", ["Redis", "Valkey"])
def test_server_that_loads_its_data_is_waited_for(product: str) -> None:
    error = unavailable(BusyLoadingError(f"{product} is loading the dataset in memory"), "server")
    assert error.detail == f"{product} is loading the dataset in memory; wait until it has loaded its data"
