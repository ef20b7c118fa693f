"""Celery reads REDIS_URL as the Redis client does, and shows no password of it."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.sentinel import MasterNotFoundError, Sentinel

from tests.helpers import free_port
from usage_worker.errors import BrokerUnavailableError, SettingsError
from usage_worker.queue.sentinel_master import UnusableSentinelError, _Sentinels, find_master
from usage_worker.service.app import make_app
from usage_worker.service.broker import broker_of, broker_settings
from usage_worker.service.broker_server import broker_facts
from usage_worker.service.transport import NotingSentinelTransport, NotingTransport
from usage_worker.settings import Settings

KEPT = {
    "visibility_timeout": 30,
    "unacked_restore_throttle": 1,
    "socket_timeout": 5.0,
    "socket_connect_timeout": 5.0,
    "health_check_interval": 5,
}
VERIFIED = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("redis://", "redis://localhost:6379/0"),
        ("redis://host?db=3", "redis://host:6379/3"),
        ("redis://[::1]:7000/2", "redis://[::1]:7000/2"),
        ("redis://:w@rd@host/1", "redis://:w%40rd@host:6379/1"),
        ("redis://me:w%2Frd@host", "redis://me:w%2Frd@host:6379/0"),
        ("redis://host?username=me&password=w%26rd", "redis://me:w%26rd@host:6379/0"),
        ("unix:///run/valkey.sock?db=2", "redis+socket:///run/valkey.sock?virtual_host=2"),
        ("unix://:w%40rd@/run/valkey.sock", "redis+socket://:w%40rd@/run/valkey.sock?virtual_host=0"),
    ],
)
def test_broker_url_names_same_redis(url: str, broker: str) -> None:
    assert broker_settings(url) == {"broker_url": broker, "broker_transport_options": KEPT}


@pytest.mark.parametrize(
    ("query", "tls"),
    [
        ("", VERIFIED),
        (
            "?ssl_ca_certs=/ca.pem&ssl_certfile=/me.pem",
            VERIFIED | {"ssl_ca_certs": "/ca.pem", "ssl_certfile": "/me.pem"},
        ),
        ("?ssl_check_hostname=false", VERIFIED | {"ssl_check_hostname": False}),
        ("?ssl_cert_reqs=none", VERIFIED | {"ssl_cert_reqs": "none"}),
    ],
)
def test_certificates_are_verified_by_default(query: str, tls: dict[str, Any]) -> None:
    settings = broker_settings(f"rediss://host/1{query}")
    assert settings["broker_url"] == "rediss://host:6379/1"
    assert settings["broker_use_ssl"] == tls


def test_timeouts_apply_to_broker() -> None:
    settings = broker_settings("redis://host?socket_timeout=3&decode_responses=true")
    assert settings["broker_transport_options"] == KEPT | {"socket_timeout": 3.0}


def test_malformed_url_is_refused() -> None:
    with pytest.raises(SettingsError):
        broker_settings("redis://host?db=word")


@pytest.mark.parametrize(
    "url",
    [
        *("redis://me:s3cret@host", "rediss://:s3cret@host", "unix://:s3cret@/run/valkey.sock"),
        "rediss://host?ssl_password=s3cret",
        "redis+sentinel://me:s3cret@a,b/1?sentinel_password=s3cret",
    ],
)
def test_connection_is_shown_without_password(url: str) -> None:
    connection = make_app(Settings(REDIS_URL=url)).connection_for_write()
    shown = {name: value for name, value in connection.info().items() if name != "password"}  # as Celery shows it
    assert "s3cret" not in f"{shown} {connection} {connection.as_uri()}"


@pytest.mark.parametrize("query", ["bogus=1", "db=x", "socket_timeout=soon"])
def test_parameter_that_no_client_takes_is_a_wrong_setting(query: str) -> None:
    with pytest.raises(SettingsError) as raised:
        broker_settings(f"redis://:hush@host/0?{query}")
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["amqp://me:s3cret@a//;amqp://me:s3cret@b//", "sentinel://:s3cret@a:1;sentinel://:s3cret@b:2"]
)
def test_broker_of_its_own_is_shown_without_password(url: str) -> None:
    settings = Settings(broker_url=url)
    connection = make_app(settings).connection_for_write()
    shown = {name: value for name, value in connection.info().items() if name != "password"}
    assert "s3cret" not in f"{shown} {connection} {connection.as_uri()} {settings!r} {settings.mask(url)}"


@pytest.mark.parametrize(
    ("url", "transport"),
    [
        ("redis://host", NotingTransport),
        ("rediss://host", NotingTransport),
        ("unix:///run/valkey.sock", NotingTransport),
        ("redis+socket:///run/valkey.sock", NotingTransport),
        ("redis+sentinel://a,b", NotingSentinelTransport),
        ("sentinel://a:1;sentinel://b:2", NotingSentinelTransport),
    ],
)
def test_no_redis_loses_messages(url: str, transport: type) -> None:
    settings = broker_of(Settings(broker_url=url))
    assert make_app(Settings(broker_url=url)).connection_for_write().get_transport_cls() is transport
    assert settings["broker_transport_options"].items() >= KEPT.items()


def test_other_brokers_are_named_as_celery_names_them() -> None:
    settings = Settings(broker_url="amqp://me@host/v")
    assert broker_of(settings) == {"broker_url": "amqp://me@host/v"}
    assert "amqp" in make_app(settings).connection_for_write().get_transport_cls().__module__


def test_sentinels_and_their_master() -> None:
    url = "rediss+sentinel://u:p%40@a,[::1]:5/2?sentinel_password=q&ssl_ca_certs=/ca.pem"
    settings = broker_of(Settings(broker_url=url, broker_master="messages", redis_master="streams"))
    assert settings["broker_url"] == "sentinel://u:p%40@a:26379/2;sentinel://u:p%40@[::1]:5/2"
    assert settings["broker_use_ssl"] == VERIFIED | {"ssl_ca_certs": "/ca.pem"}
    options = settings["broker_transport_options"]
    assert options["master_name"] == "messages"
    assert options["sentinel_kwargs"].items() >= {"password": "q", "ssl": True, "ssl_ca_certs": "/ca.pem"}.items()


@pytest.mark.parametrize(
    ("settings", "master"),
    [
        ({"REDIS_URL": "redis+sentinel://a"}, "mymaster"),
        ({"REDIS_URL": "redis+sentinel://a", "redis_master": "streams"}, "streams"),
        ({"REDIS_URL": "redis+sentinel://a", "redis_master": "streams", "broker_url": "sentinel://b"}, "mymaster"),
    ],
)
def test_default_master(settings: dict[str, Any], master: str) -> None:
    assert broker_of(Settings(**settings))["broker_transport_options"]["master_name"] == master


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"REDIS_URL": "redis+cluster://a,b"}, "USAGE_BROKER_URL is not set"),
        ({"broker_url": "redis+cluster://:hush@a,b"}, "USAGE_BROKER_URL: Celery cannot use a Redis Cluster"),
        ({"broker_url": "rabbit://:hush@a"}, "USAGE_BROKER_URL: Celery does not speak rabbit://"),
        ({"broker_url": "amqp://me:hu/sh@a"}, "USAGE_BROKER_URL: the host or the port is wrong"),
        ({"broker_url": "redis://:hush@a/x"}, "USAGE_BROKER_URL: the path is not the number of a database"),
    ],
)
def test_unusable_broker_is_a_wrong_setting(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason) as raised:
        broker_of(Settings(**settings))
    assert "hu" not in str(raised.value)


def test_sentinels_that_refuse_are_named_in_one_line() -> None:
    first, second = free_port(), free_port()
    url = f"redis+sentinel://me:hush@127.0.0.1:{first},127.0.0.1:{second}/0"
    with pytest.raises(BrokerUnavailableError) as raised:
        broker_facts(Settings(broker_url=url, broker_master="messages"))
    reason = f"no Sentinel at 127.0.0.1:{first}, 127.0.0.1:{second} answers: Error 111"
    assert str(raised.value).startswith(f"the broker is not available: {reason}")
    assert "hush" not in str(raised.value)


class _KnownMasters:
    """A Sentinel that knows the masters `streams` and `lost`, of which the second is down."""

    def sentinel_masters(self) -> dict[str, dict[str, Any]]:
        flags = {"is_master": True, "is_sdown": False, "is_odown": False, "num-other-sentinels": 0}
        known = flags | {"ip": "10.0.0.1", "port": 6379}
        return {"streams": known, "lost": known | {"is_sdown": True}}

    def get_connection_kwargs(self) -> dict[str, Any]:
        return {"host": "10.0.0.9", "port": 26379}


def test_master_that_no_sentinel_knows_is_named_with_its_setting() -> None:
    asked = Sentinel([])  # type: ignore[no-untyped-call]
    asked.sentinels = [_KnownMasters()]  # type: ignore[list-item]
    names = {"url": "USAGE_BROKER_URL", "variable": "USAGE_BROKER_MASTER"}
    assert find_master(asked, "streams", **names) == ("10.0.0.1", 6379)
    with pytest.raises(MasterNotFoundError, match="know no primary other; set USAGE_BROKER_MASTER to lost, streams"):
        find_master(asked, "other", **names)
    with pytest.raises(MasterNotFoundError, match="the primary lost is down"):
        find_master(asked, "lost", **names)


class _SilentSentinel(_KnownMasters):
    def sentinel_masters(self) -> dict[str, dict[str, Any]]:
        raise RedisConnectionError("refused")


@pytest.mark.parametrize("silent_first", [True, False])
def test_silent_sentinel_may_know_the_master(silent_first: bool) -> None:
    asked = Sentinel([])  # type: ignore[no-untyped-call]
    asked.sentinels = [_KnownMasters(), _SilentSentinel()][:: -1 if silent_first else 1]  # type: ignore[assignment]
    with pytest.raises(MasterNotFoundError, match="the Sentinels that answer know no primary other") as raised:
        find_master(asked, "other", url="REDIS_URL", variable="USAGE_REDIS_MASTER")
    assert not isinstance(raised.value, UnusableSentinelError)


def test_each_sentinel_is_asked_though_another_thread_reorders_them() -> None:
    asked = Sentinel([])  # type: ignore[no-untyped-call]
    sentinel = _KnownMasters()

    class Reordering(_SilentSentinel):
        def sentinel_masters(self) -> dict[str, dict[str, Any]]:
            _Sentinels.ask_another(asked)  # type: ignore[arg-type]  # as another thread would
            return super().sentinel_masters()

    asked.sentinels = silent, *_ = [Reordering(), sentinel]  # type: ignore[assignment]
    assert find_master(asked, "streams", url="", variable="") == ("10.0.0.1", 6379)
    assert [*map(id, asked.sentinels)] == [id(sentinel), id(silent)]
