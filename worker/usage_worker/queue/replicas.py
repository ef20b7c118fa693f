"""The replicas that must have an entry before it counts as sent (`USAGE_REDIS_REPLICAS`).

Redis replicates asynchronously: what a primary took and had not passed on when it died is lost. `WAIT`, on the same
connection behind the entries, says how many replicas have them. Where these are too few, the entries count as not sent
and are added again later; the database counts them once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.exceptions import ReadOnlyError, RedisError, ResponseError

if TYPE_CHECKING:
    import redis
    from redis.client import Pipeline

# How long Redis waits for its replicas, which take milliseconds; less than the 5 s in which it must answer.
WAIT_SECONDS = 1.0
# A replica says once a second what it has.
_LAG_SECONDS = 1
# How the answer of a replica to WAIT begins; the client has no type for it.
_ON_REPLICA = "WAIT cannot be used with replica instances"


class TooFewReplicasError(ResponseError):
    """Entries that the primary has, and fewer replicas than there must be."""

    def __init__(self, replicas: int, wanted: int) -> None:
        super().__init__(f"{replicas} of {wanted} replicas have the entries")


class Replicas:
    """Executes pipelines that add entries so that `wanted` replicas have them; 0 for none."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._lacking: set[str] = set()

    def execute(self, server: str, client: redis.Redis, pipeline: Pipeline) -> list[Any]:
        """Return the answers of a server; those to commands whose effect too few replicas have are errors.

        Raises:
            RedisError: any of the commands may have been executed.
        """
        if self._wanted == 0:
            return pipeline.execute(raise_on_error=False)
        if server in self._lacking:  # each attempt would add the entries once more
            self._check(client)
        pipeline.wait(self._wanted, int(WAIT_SECONDS * 1000))
        *answers, replicas = pipeline.execute(raise_on_error=False)
        if isinstance(replicas, RedisError):
            self._lacking.add(server)
            raise _as_read_only(replicas)
        if replicas < self._wanted:
            self._lacking.add(server)
            lack = TooFewReplicasError(replicas, self._wanted)
            return [answer if isinstance(answer, RedisError) else lack for answer in answers]
        self._lacking.discard(server)
        return answers

    def _check(self, client: redis.Redis) -> None:
        """Raise where replicas are still missing, or this user may not wait for them."""
        try:
            client.wait(0, 1)  # NOPERM where this user may not WAIT
        except ResponseError as error:
            raise _as_read_only(error) from None
        replicas = live_replicas(client.info("replication"))
        if replicas < self._wanted:
            raise TooFewReplicasError(replicas, self._wanted)


def _as_read_only(error: RedisError) -> RedisError:
    """Return what a replica says to WAIT as what it says to writes, so that the new primary is looked for."""
    return ReadOnlyError(str(error)) if str(error).startswith(_ON_REPLICA) else error


def live_replicas(info: dict[str, Any]) -> int:
    """Return how many replicas of INFO's server had everything a second ago."""
    replicas = (info.get(f"slave{number}") for number in range(info.get("connected_slaves", 0)))
    return sum(isinstance(it, dict) and it["state"] == "online" and it["lag"] <= _LAG_SECONDS for it in replicas)
