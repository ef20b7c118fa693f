"""Settings, read once from the environment, and from `.env` where the environment does not set them.

The docstring below each setting is its text in docs/reference/settings.md.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator

from usage_worker.environment import read_form, variables_of, variables_of_file
from usage_worker.errors import SettingsError
from usage_worker.masking import Mask
from usage_worker.urls import checked_broker_url, checked_database_url, checked_redis_url, checked_service_url

DEFAULT_MASTER = "mymaster"
MAX_SHARDS = 256
# The UUIDv5 of `usage-worker` in the namespace of domain names.
DEFAULT_ID_NAMESPACE = UUID("c2cce1b7-d584-5e34-8fb0-123f0b8de01f")


class PublisherSettings(BaseModel):
    """What a publisher reads, and only from the environment: the rest of it, and `.env`, are the application's."""

    model_config = ConfigDict(validate_by_name=True, frozen=True)

    redis_url: str = Field("", validation_alias="REDIS_URL", repr=False)
    """The Redis with the streams; without one, a publisher is disabled."""
    redis_master: str = Field(DEFAULT_MASTER, min_length=1)
    """The name by which the Sentinels of a URL as `redis+sentinel://` know the Redis with the streams."""
    redis_replicas: int = Field(0, ge=0, le=100)
    """Replicas of Redis that must have an event before it counts as sent: 1 where none may be lost in a failover."""
    disabled: bool = False
    """Whether publishers in applications do nothing: no thread, no connection, and `track` returns `None`."""
    stream_shards: int = Field(2, ge=1, le=MAX_SHARDS)
    """Number of streams, the same for publishers and workers; it can be changed while they run."""
    accept_days: int = Field(35, ge=1, le=36_500)
    """Length of the acceptance window: older events are quarantined, except those of a backfill."""
    ids: Literal["uuid", "uuid5"] = "uuid"
    """`uuid`: ids of users, agents, conversations are UUIDs; `uuid5`: numbers and texts, too, which become UUIDs."""
    id_namespace: UUID = DEFAULT_ID_NAMESPACE
    """Namespace of these UUIDs, itself a UUID: the same for publishers and workers, and never changed later."""

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, url: str) -> str:
        return checked_redis_url(url)

    @property
    def takes_any_id(self) -> bool:
        """Whether ids may be numbers and texts."""
        return self.ids == "uuid5"

    @property
    def accept_window(self) -> timedelta:
        """How old an event may be when it is counted."""
        return timedelta(days=self.accept_days)


class Settings(PublisherSettings):
    """Settings of one process; durations are in seconds unless the name says days."""

    redis_url: str = Field("redis://127.0.0.1:6379/0", validation_alias="REDIS_URL", repr=False)
    """Redis 7, Valkey 8 or newer, as `redis://`, `rediss://` or `unix://`, with a database number of its own; through
    Sentinel as `redis+sentinel://host,host`, or a Cluster as `redis+cluster://host,host`, with TLS as `rediss+…`. A
    publisher in an application has no default: without a URL it is disabled."""
    database_url: str = Field("", validation_alias="DATABASE_URL", repr=False)
    """PostgreSQL 15 or newer, as `postgresql://user:password@host/database`; publishers need none. Of several hosts, as
    `host1,host2:5433`, the one that can be written is used: after a failover it is another."""
    report_database_url: str = Field("", repr=False)
    """A standby of that PostgreSQL, which reports, searches and the comparisons of `run reconcile` read instead."""
    broker_url: str = Field("", repr=False)
    """Where Celery's messages go, by default to the server of `REDIS_URL`: another Redis, written like that one, or
    what else Celery speaks, as `amqp://user:password@host/vhost`; required where `REDIS_URL` names a Cluster."""
    broker_master: str = ""
    """The name by which the Sentinels in `USAGE_BROKER_URL` know its Redis; by default `mymaster`."""
    pooled: bool = False
    """Whether `DATABASE_URL` leads to a pooler in transaction mode, as PgBouncer; migrations need a direct URL."""
    batch_events: int = Field(200_000, ge=1, le=500_000)
    """Greatest number of events in one transaction, approximately; where a backlog waits, it grows to this in steps."""
    batch_bytes: int = Field(40 * 2**20, ge=2**16)
    """Greatest size of the entries in one transaction, approximately, in bytes."""
    # A worker with one process takes longer for so many ticks than they may wait: with 0.001, all of them expired.
    flush_interval: float = Field(10.0, ge=0.1, le=86_400)
    """Seconds between two ticks of beat for a shard, which restart its flushes where they ended."""
    # Each flush is a message: with less, those of an idle shard would follow each other without a pause.
    flush_budget: float = Field(10.0, ge=0.1, le=86_400)
    """Seconds after which a flush begins no further batch."""
    # Marks of what a worker holds are renewed four times as often: with less, by a loop without a pause.
    reclaim_idle: float = Field(15.0, ge=0.1, le=86_400)
    """Seconds after which an entry that a worker has read but not acknowledged is reclaimed by another worker."""

    retention_days: int = Field(90, ge=2, le=36_500)
    """Days for which the ledger is kept, and backfills are accepted; must be greater than `USAGE_ACCEPT_DAYS`."""
    history_retention_days: int = Field(730, ge=1, le=36_500)
    """Days for which the audit trail `user_agent_history` is kept; whole months are dropped."""
    hourly_retention_days: int = Field(90, ge=1, le=36_500)
    """Days for which `agent_usage_hourly` is kept, at least as long as the ledger; whole months are dropped."""
    dead_letter_days: int = Field(90, ge=1, le=36_500)
    """Days for which dead letters are kept, replayed or not."""
    # At least two, since a day may end before the next run.
    partitions_ahead_days: int = Field(7, ge=2, le=366)
    """Days after today for which partitions are created in advance."""
    purge_after_days: int = Field(30, ge=0, le=36_500)
    """Days after which a soft-deleted row is purged."""
    purge_budget: float = Field(30.0, ge=0.1, le=86_400)
    """Seconds that a scheduled purge may take."""
    reconcile_budget: float = Field(600.0, ge=0.1, le=86_400)
    """Seconds that a scheduled reconciliation may take."""
    anomaly_min_usd: float = Field(1.0, ge=0, allow_inf_nan=False)
    """US dollars by which the cost of an hour must exceed the expected one to be an anomaly."""
    unknown: Literal["quarantine", "create"] = "quarantine"
    """What to do with an event whose user or agent does not exist: quarantine it, or create the user and the agent."""
    graph_min_users: int = Field(10, ge=5, le=1_000_000_000)
    """Least number of common users with which two agents are related."""
    forget_key: str = Field("", repr=False)
    """The key with which `usage-worker forget` notes whom it has erased, at least 32 characters: the same for all
    workers and commands, kept as long as the database and its backups. `deploy/new-secrets` makes one."""
    prices: Literal["genai-prices", "off"] = "genai-prices"
    """The list from which a cost is filled in that nobody gave, where the extra `prices` is installed; or `off`."""

    embedder: str = ""
    """What turns the texts of agents into vectors for `usage-worker search`: `minilm`, on this machine (extra
    `semantic`), `openai`, a service with its interface, or one that a package adds; without it, words alone count."""
    embedder_path: str = ""
    """A file to use instead of the weights that the extra `semantic` brings: their `model.onnx`, for `minilm`."""
    embedder_url: str = ""
    """The address of the service, as `https://api.openai.com/v1`, for `openai`."""
    embedder_model: str = ""
    """The model that the service is asked for, as `text-embedding-3-small`, for `openai`."""
    embedder_key: str = Field("", repr=False)
    """The key that the service is sent, if it needs one, for `openai`."""

    # service/schedule.py parses the schedules.
    schedule_purge: str = "10 * * * *"
    """When to purge soft-deleted rows: a crontab, a number of seconds, or `off`."""
    schedule_partitions: str = "20 * * * *"
    """When to create and drop partitions: a crontab, a number of seconds, or `off`."""
    schedule_analytics: str = "300"
    """When to refresh the analytics: a crontab, a number of seconds, or `off`."""
    # After the usual minute in which late events of the last hour come.
    schedule_anomalies: str = "15 * * * *"
    """When to compare the last hours with those of the weeks before: a crontab, a number of seconds, or `off`."""
    schedule_hours: str = "300"
    """When to roll up the hours that events have touched: a crontab, a number of seconds, or `off`."""
    schedule_graph: str = "40 3 * * *"
    """When to count which agents the same users use: a crontab, a number of seconds, or `off`."""
    schedule_quality: str = "45 3 * * *"
    """When to compute the quality of agents, which a search weighs: a crontab, a number of seconds, or `off`."""
    schedule_reconcile: str = "30 3 * * *"
    """When to compare counters, roll-up and ledger: a crontab, a number of seconds, or `off`."""
    schedule_dead_letters: str = "50 3 * * *"
    """When to delete old dead letters: a crontab, a number of seconds, or `off`."""
    schedule_embed: str = "60"
    """When to embed new and changed agents, if there is an embedder: a crontab, a number of seconds, or `off`."""
    timezone: str = "UTC"
    """Time zone of the crontabs and of the days that `usage-worker report` and the page show, as `Europe/Berlin`."""

    # http/keys.py parses it. Hashes are no secret, but nothing need print them.
    api_keys: str = Field("", repr=False)
    """The keys that `usage-worker serve` takes, as `usage-worker new-key` prints them, separated by commas."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged."""
    log_format: Literal["console", "json"] = "console"
    """`console` for people, `json` for one object per line."""

    @field_validator("database_url", "report_database_url")
    @classmethod
    def _database_url(cls, url: str) -> str:
        return checked_database_url(url)

    @field_validator("broker_url")
    @classmethod
    def _broker_url(cls, url: str) -> str:
        return checked_broker_url(url)

    @field_validator("embedder_url")
    @classmethod
    def _embedder_url(cls, url: str) -> str:
        return checked_service_url(url, "a key belongs in USAGE_EMBEDDER_KEY")

    @field_validator("embedder_key")
    @classmethod
    def _embedder_key(cls, key: str) -> str:
        if not re.fullmatch(r"[!-~]*", key, re.ASCII):
            raise ValueError("must be printable ASCII without spaces, as a header of HTTP requires")
        return key

    @field_validator("forget_key")
    @classmethod
    def _forget_key(cls, key: str) -> str:
        # Ids of users that are few or known can be tried: the key alone keeps them from being found.
        if key and not re.fullmatch(r"[!-~]{32,}", key, re.ASCII):
            raise ValueError("must be at least 32 characters of printable ASCII; make one with `openssl rand -hex 32`")
        return key

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        return known_zone(name)

    @property
    def purge_after(self) -> timedelta:
        """How long ago a row must have been deleted to be purged."""
        return timedelta(days=self.purge_after_days)

    @property
    def dead_letter_age(self) -> timedelta:
        """How old a dead letter must be to be deleted."""
        return timedelta(days=self.dead_letter_days)

    @property
    def trigger_expires(self) -> float:
        """Seconds for which a tick for a flush waits for a worker if their clocks agree; the next one does its work."""
        return max(2 * self.flush_interval, 2.0)

    @property
    def has_own_broker(self) -> bool:
        """Whether Celery's messages go to another server than the streams."""
        return self.broker_url not in ("", self.redis_url)

    @property
    def mask(self) -> Mask:
        """The mask that removes the passwords of all servers, and the keys, from a text."""
        servers = [self.database_url, self.report_database_url, self.redis_url, self.broker_url]
        return Mask(servers, [os.environ.get("PGPASSWORD", ""), self.embedder_key, self.forget_key])

    def require_forget_key(self) -> str:
        """Return the key of erasure.

        Raises:
            SettingsError: USAGE_FORGET_KEY is not set.
        """
        if not self.forget_key:
            raise SettingsError(
                "USAGE_FORGET_KEY is not set; make one with `openssl rand -hex 32`, keep it, and set it for all workers"
            )
        return self.forget_key

    def require_database(self) -> str:
        """Return the database URL.

        Raises:
            SettingsError: DATABASE_URL is not set.
        """
        if not self.database_url:
            raise SettingsError("DATABASE_URL is not set; export DATABASE_URL=postgresql://user:password@host/database")
        return self.database_url


def known_zone(name: str) -> str:
    """Return the name of a time zone.

    Raises:
        ValueError: Python does not know it, or PostgreSQL may not.
    """
    # Python finds these in the files of its system.
    if name in {"localtime", "posixrules"} or name.startswith(("posix/", "right/")):
        raise ValueError("is not a name that PostgreSQL knows, too; write it as Europe/Berlin")
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError("is not a valid time zone; write it as Europe/Berlin") from None
    return name


def load_settings(environment: dict[str, str] | None = None) -> Settings:
    """Read the settings from `environment`, by default that of this process, and from `.env`.

    Raises:
        SettingsError: `.env` cannot be read, or a setting is out of range; the message names it without its value,
            which may be secret.
    """
    settings = read_form(Settings, os.environ if environment is None else environment, variables_of_file())
    if settings.retention_days <= settings.accept_days:
        # An event that arrives again after the ledger has dropped it would be counted twice.
        raise SettingsError("USAGE_RETENTION_DAYS must be greater than USAGE_ACCEPT_DAYS")
    return settings


def load_publisher_settings(redis_url: str | None = None, *, disabled: bool | None = None) -> PublisherSettings:
    """Read what a publisher needs; what is given is used instead of what the environment says.

    Raises:
        SettingsError: as `load_settings`.
    """
    if disabled is None:
        switch = {name: os.environ[name] for name in variables_of("disabled") if name in os.environ}
        disabled = read_form(PublisherSettings, switch).disabled
    # A URL that is not used need not be right: the environment's may be the application's own.
    given = {"redis_url": ""} if disabled else {"redis_url": redis_url} if redis_url else {}
    return read_form(PublisherSettings, os.environ, disabled=disabled, **given)
