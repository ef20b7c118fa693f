"""The primary that Sentinels know, in their own words a master: each new connection asks them which server it is."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from usage_worker.errors import UnusableServerError
from usage_worker.printable import printable

if TYPE_CHECKING:
    import redis
    from redis.exceptions import RedisError

    from usage_worker.queue.url import RedisAddress

NO_SENTINEL = "it is not a Sentinel; name the Sentinels in {}, or write redis:// for a server without them"
REFUSED_LOGIN = "a Sentinel refuses the login"
# Of the servers with the streams only.
_OF_THE_STREAMS = {"username", "password", "db"}


class SentinelMaster:
    """The current primary.

    A connection to a server that is the primary no more ends: a Sentinel that demotes one makes it close them, and the
    driver closes one of which a write was refused as a replica's.
    """

    def __init__(self, address: RedisAddress, master: str, options: dict[str, Any]) -> None:
        of_all = {name: value for name, value in options.items() if name not in _OF_THE_STREAMS}
        tls = {"ssl": True} if address.tls else {}
        self._sentinels = _Sentinels(  # type: ignore[no-untyped-call]
            address.hosts, sentinel_kwargs={**of_all, **tls, **address.sentinel_login}, **options, **tls
        )
        self._client: redis.Redis = self._sentinels.master_for(master)  # type: ignore[no-untyped-call]

    def names(self) -> list[str]:
        return [""]

    def named(self, name: str) -> redis.Redis:  # noqa: ARG002 - it has none
        return self._client

    def name_of(self, key: str) -> str:  # noqa: ARG002 - the primary holds every key
        return ""

    def failed(self, name: str, error: RedisError) -> None:  # noqa: ARG002 - it has none
        # The driver's word for a refused write. A Sentinel that is cut off from the others names the former primary.
        if "previous master" in str(error):
            self._sentinels.ask_another()

    def close(self) -> None:
        self._client.close()
        self._sentinels.close()


class UnusableSentinelError(MasterNotFoundError):
    """What answers is not a Sentinel, or does not know a primary of this name."""


class _Sentinels(Sentinel):
    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return host and port of the primary.

        Raises:
            MasterNotFoundError: no Sentinel answers, or the primary is down, and no replica has been promoted yet.
            UnusableServerError: it is not a Sentinel, or does not know a primary of this name.
        """
        try:
            return find_master(self, service_name, url="REDIS_URL", variable="USAGE_REDIS_MASTER")
        except UnusableSentinelError as error:
            raise UnusableServerError(str(error)) from None

    def ask_another(self) -> None:
        """Begin with another Sentinel the next time."""
        first, *others = self.sentinels
        self.sentinels = [*others, first]  # another thread may be going through the former list


def ask_at_once(asked: Any, *, url: str, variable: str) -> None:
    """Let Sentinels of another library's find their primary by `find_master`, without a pause before the next one.

    By default the driver waits for 4 s at one that refuses. One that does not answer is not asked twice.
    """
    for sentinel in asked.sentinels:
        sentinel.set_retry(Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)))
    asked.discover_master = partial(find_master, asked, url=url, variable=variable)


def find_master(asked: Sentinel, name: str, *, url: str, variable: str) -> tuple[str, int]:
    """Ask the Sentinels of the setting `url` for host and port of a primary, whose name is in `variable`.

    Raises:
        MasterNotFoundError: no Sentinel that answers knows it, or it is down, and no replica has been promoted yet.
        UnusableSentinelError: what answers is not a Sentinel, or all of them answer, and none knows the name.
    """
    known: set[str] = set()
    problem = ""
    sentinels = asked.sentinels
    for sentinel in sentinels:
        try:
            masters: Any = sentinel.sentinel_masters()
        except (AuthenticationError, NoPermissionError) as error:
            problem = f"{REFUSED_LOGIN}: {error}"
            continue
        except (RedisConnectionError, RedisTimeoutError) as error:
            problem = problem or f"no Sentinel at {_places(asked)} answers: {error}"
            continue
        except ResponseError as error:
            if "unknown command" in str(error):
                raise UnusableSentinelError(NO_SENTINEL.format(url)) from None
            raise
        known |= set(masters)
        if not (state := masters.get(name)):
            continue
        if asked.check_master_state(state, name):  # type: ignore[no-untyped-call]
            # A new list: another thread may be going through this one.
            asked.sentinels = [sentinel, *(it for it in sentinels if it is not sentinel)]
            return state["ip"], state["port"]
        problem = f"the primary {name} is down, and no replica has been promoted yet"
    if known and name not in known:
        names = printable(", ".join(sorted(known)))
        reason = f"know no primary {name}; set {variable} to {names}"
        if problem:  # a silent one may know it
            raise MasterNotFoundError(f"the Sentinels that answer {reason}")
        raise UnusableSentinelError(f"the Sentinels {reason}")
    raise MasterNotFoundError(problem or "the Sentinels know no primary")


def _places(asked: Sentinel) -> str:
    given = (sentinel.get_connection_kwargs() for sentinel in asked.sentinels)
    return ", ".join(f"{it['host']}:{it['port']}" for it in given)
