"""`usage-worker doctor`: its checks of Redis, each provoked."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
import redis

from tests.conftest import with_login
from tests.helpers import eventually
from tests.servers import FAST_VALKEY, InstalledRedis
from tests.system.doctor import REDIS_CHECKS, Doctor, states, unanswered
from usage_worker.local import EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def own_valkey(module_folder: Path, pytestconfig: pytest.Config) -> Iterator[EmbeddedValkey]:
    """Return a server whose settings these tests may change."""
    program, folder = pytestconfig.getoption("--redis-server"), module_folder / "valkey"
    made = InstalledRedis(program, folder) if program else EmbeddedValkey(folder, FAST_VALKEY)
    with made as server:
        yield server


@pytest.fixture
def own_redis(doctor: Doctor, own_valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    doctor.set(REDIS_URL=own_valkey.url())
    with redis.Redis.from_url(own_valkey.url()) as client:
        yield client


def test_disk_and_memory_of_redis(doctor: Doctor, own_redis: redis.Redis, own_valkey: EmbeddedValkey) -> None:
    own_redis.config_set("appendfsync", "no")
    said = doctor.ask()
    assert said["append_only"].startswith("warn: appendonly no")
    assert said["maxmemory"].startswith("warn: no limit")
    assert said["append_fsync"].startswith("warn: appendfsync no")
    for name, value in {"appendonly": "yes", "appendfsync": "always", "maxmemory": "100mb"}.items():
        own_redis.config_set(name, value)
    said = doctor.ask()
    assert set(states(said, {"append_only", "append_fsync", "redis_writes", "maxmemory"}).values()) == {"ok"}
    assert "limit 100 MiB, noeviction" in said["maxmemory"]
    own_redis.config_set("appendonly", "no")
    shutil.rmtree(own_valkey.data_dir / "data")
    eventually(lambda: not own_redis.info("persistence")["rdb_bgsave_in_progress"])
    own_redis.bgsave()
    eventually(lambda: own_redis.info("persistence")["rdb_last_bgsave_status"] == "err")
    assert doctor.said("redis_writes").startswith("fail: Redis could not write to its disk")


def test_redis_is_asked_once_for_its_details(doctor: Doctor, own_redis: redis.Redis) -> None:
    own_redis.config_resetstat()
    doctor.ask()
    # Of the status for its snapshots, and of the doctor for the rest.
    assert own_redis.info("commandstats")["cmdstat_config|get"]["calls"] == 2


@pytest.fixture
def limited_user(redis_client: redis.Redis) -> Iterator[str]:
    """Return a user with every right, whose password is its name."""
    name = f"doctor-{uuid4().hex}"
    redis_client.acl_setuser(name, enabled=True, passwords=f"+{name}", keys=["*"], channels=["*"], categories=["+@all"])
    yield name
    redis_client.acl_deluser(name)


def test_user_with_few_rights(doctor: Doctor, redis_client: redis.Redis, redis_url: str, limited_user: str) -> None:
    """As on managed servers: what the user may not ask is unknown, and what it may not do fails."""
    doctor.set(REDIS_URL=with_login(redis_url, limited_user, limited_user))
    assert doctor.said("redis_user").startswith("ok: ")
    redis_client.acl_setuser(limited_user, enabled=True, commands=["-config|get"])
    assert doctor.said("append_fsync").startswith("unknown: this server or user has no CONFIG GET")
    redis_client.acl_setuser(limited_user, enabled=True, commands=["-info", "-xclaim"], reset_channels=True)
    said = doctor.ask()
    unknown = {"redis_memory", "eviction", "append_only", "redis_writes", "maxmemory", "redis_version"}
    assert unanswered(said, unknown) == unknown
    assert "info" in said["append_only"]
    denied = "XCLAIM usage:events:{doctor}, PSUBSCRIBE /doctor.*: "
    assert said["redis_user"].startswith(f"fail: the user of REDIS_URL may not use {denied}")


def test_documented_user_lacks_nothing(doctor: Doctor, redis_worker_url: str) -> None:
    doctor.set(REDIS_URL=redis_worker_url)
    assert unanswered(doctor.ask(), REDIS_CHECKS) == set()
    assert doctor.said("redis_user").startswith("ok: ")
