"""The commands as their users see them: real processes, their output and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import closing
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from tests.helpers import eventually
from tests.integration.commands import NOW, PROGRAM, Cli, events, figures, send
from tests.integration.database import run
from tests.preloaded import start_celery
from usage_worker.local import EmbeddedValkey
from usage_worker.queue.heartbeat import Heartbeat
from usage_worker.queue.stream import EventStream

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE = Path(__file__).parents[3] / "shared" / "traces" / "azure_llm_2023_code.csv"


@pytest.fixture
def cli(tmp_path: Path, database: str, redis_url: str) -> Cli:
    return Cli(tmp_path, DATABASE_URL=database, REDIS_URL=redis_url, USAGE_UNKNOWN="create", USAGE_RECLAIM_IDLE="0.5")


def test_publish_ndjson_reports_bad_lines_and_sends_others(cli: Cli, database: str) -> None:
    bad = [
        '{"user_id"',
        '{"user_id": "nobody"}',
        events(1, nonsense=1).strip(),
        events(1, occurred_at="2020-01-01T00:00:00Z").strip(),
        "[" * 100_000,
    ]
    good = events(3, input_tokens=2, cost_usd="0.0000000001").splitlines()
    lines = [good[0], *bad, *good[1:]]
    cli.folder.joinpath("events.ndjson").write_bytes("\n".join(lines).encode() + b'\n{"model": "\xff"}\n')
    done = cli.run("publish", "events.ndjson")
    assert (done.returncode, done.stdout) == (1, "3 events sent, 6 bad lines\n")
    error_lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in error_lines] == [f"line {number}" for number in (2, 3, 4, 5, 6, 9)]
    for line, reason in zip(
        error_lines, ("JSON", "agent_id", "nonsense", "occurred_at", "nested", "UTF-8"), strict=True
    ):
        assert reason in line
    assert cli.drained() == figures(applied=3)
    assert run(database, "SELECT usage_count, total_tokens_used, total_cost_usd::text FROM user_agents") == [
        (3, 6, "0.0000000003")
    ]


def test_file_published_again_adds_only_duplicates(cli: Cli, database: str) -> None:
    cli.folder.joinpath("events.ndjson").write_text(events(1_200))
    yesterday = (NOW - timedelta(days=1)).strftime("%Y-%m-%d")
    for expected in (figures(applied=1_200), figures(duplicate=1_200)):
        done = cli.run("publish", "events.ndjson", "--json", "--start-at", yesterday, "--draw-pairs", "3")
        assert json.loads(done.stdout) == {"sent": 1_200, "bad": 0}
        assert done.returncode == 0
        assert cli.drained() == expected
    assert run(database, "SELECT count(*), sum(usage_count)::int FROM user_agents") == [(3, 1_200)]


def test_command_uses_own_url_and_publishes_where_applications_are_switched_off(
    cli: Cli, redis_client: redis.Redis
) -> None:
    cli.env |= {"USAGE_REDIS_URL": cli.env["REDIS_URL"], "REDIS_URL": "redis://127.0.0.1:1/0", "USAGE_DISABLED": "1"}
    done = cli.run("publish", "-", stdin=events(2).encode())
    assert (done.returncode, done.stdout) == (0, "2 events sent, 0 bad lines\n")
    assert redis_client.xlen("usage:events:{0}") + redis_client.xlen("usage:events:{1}") > 0


def test_publish_csv_with_every_option(cli: Cli, database: str) -> None:
    """A file as spreadsheets write it: byte order mark, CRLF, an empty cell, other column names, times without zone."""
    text = "\ufeffTIMESTAMP,In,Cost,Other\r\n2023-11-16 18:00:00.1234567,5,0.25,x\r\n2023-11-16 18:00:05,7,,y\r\n"
    cli.folder.joinpath("old.CSV").write_text(text, newline="")
    today = NOW.strftime("%Y-%m-%d")
    names = ["--map", "occurred_at=TIMESTAMP", "--map", "input_tokens=In", "--map", "cost_usd=Cost"]
    others = ["--set", "model=m", "--assume-utc", "--start-at", today, "--draw-pairs", "1"]
    done = cli.run("publish", "old.CSV", *names, *others)
    assert (done.returncode, done.stdout) == (0, "2 events sent, 0 bad lines\n"), done.stderr
    assert cli.drained() == figures(applied=2)
    seen = run(
        database,
        "SELECT to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'), input_tokens, cost_usd, model"
        " FROM usage_events ORDER BY occurred_at",
    )
    assert [(when, tokens, model) for when, tokens, _, model in seen] == [
        (f"{today} 00:00:00.000000", 5, "m"),
        (f"{today} 00:00:04.876544", 7, "m"),
    ]
    assert [str(cost) for *_, cost, _ in seen] == ["0.2500000000", "None"]
    assert run(database, "SELECT usage_count FROM user_agents") == [(2,)]


def test_publish_reads_open_standard_input(cli: Cli, redis_client: redis.Redis) -> None:
    command = [PROGRAM, "publish", "-"]
    with subprocess.Popen(
        command, cwd=cli.folder, env=cli.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        process.stdin.write(events(2).encode())
        process.stdin.flush()
        eventually(lambda: redis_client.keys("usage:events:*"))
        output, _ = process.communicate(events(1).encode(), timeout=30)
    assert (process.returncode, output) == (0, b"3 events sent, 0 bad lines\n")
    assert cli.drained() == figures(applied=3)


def test_publish_reads_open_named_pipe(cli: Cli, redis_client: redis.Redis) -> None:
    pipe = cli.folder / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen([PROGRAM, "publish", "pipe"], cwd=cli.folder, env=cli.env, stdout=subprocess.PIPE) as process:
        # Opened twice by the command, it would have no reader between, and the second would wait for a writer.
        with pipe.open("w") as writer:
            writer.write(events(2))
            writer.flush()
            eventually(lambda: redis_client.keys("usage:events:*"))
            writer.write(events(1))
        output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, b"3 events sent, 0 bad lines\n")
    assert cli.drained() == figures(applied=3)


def test_publish_replays_real_trace(cli: Cli, database: str) -> None:
    if not TRACE.exists():
        pytest.skip("the trace is not part of the product, and ../shared/traces is absent")
    names = ["--map", "occurred_at=TIMESTAMP", "--map", "input_tokens=ContextTokens"]
    names += ["--map", "output_tokens=GeneratedTokens"]
    others = ["--assume-utc", "--start-at", (NOW - timedelta(days=1)).strftime("%Y-%m-%d"), "--draw-pairs", "200"]
    done = cli.run("publish", str(TRACE), *names, *others)
    assert (done.returncode, done.stdout) == (0, "8,819 events sent, 0 bad lines\n"), done.stderr
    assert cli.drained() == figures(applied=8_819)
    tokens = sum(int(a) + int(b) for _, a, b in (line.split(",") for line in TRACE.read_text().splitlines()[1:]))
    query = "SELECT count(*) > 100, sum(usage_count)::bigint, sum(total_tokens_used)::bigint FROM user_agents"
    assert run(database, query) == [(True, 8_819, tokens)]


def test_drain_reclaims_entries_of_dead_worker(cli: Cli, redis_client: redis.Redis, redis_url: str) -> None:
    send(redis_url, 5)
    stream = EventStream(redis_url, 2)
    held = sum(len(stream.read(shard, "vanished", 10)) for shard in range(2))
    stream.close()
    assert held
    assert cli.drained() == figures(applied=5)


def test_status_without_workers(cli: Cli, redis_url: str) -> None:
    send(redis_url, 4)
    done = cli.run("status", "--json")
    seen = json.loads(done.stdout)
    assert done.returncode == 1
    failing = {problem["check"] for problem in seen["problems"] if problem["state"] == "fail"}
    assert failing == {"consumer_counting", "consumer_maintenance", "beat"}
    assert not seen["healthy"]
    assert (seen["workers"], seen["beat_seconds"], seen["redis_memory"]) == ([], None, 0.0)
    backlog = seen["backlog"]
    assert backlog.keys() == {"0", "1"}
    assert sum(shard["entries"] for shard in backlog.values()) >= 1
    assert 0 < max(shard["oldest_seconds"] for shard in backlog.values()) < 60
    assert cli.drained() == figures(applied=4)
    done = cli.run("status")
    table = dict(line.split("\t") for line in done.stdout.splitlines())
    assert done.returncode == 1
    assert table["counted"] == "4 accepted = 4 applied + 0 duplicate + 0 quarantined"
    assert "usage-worker up" in table["consumer_counting"]


def test_status_is_healthy_with_worker_and_heartbeat(cli: Cli, redis_url: str) -> None:
    command = [PROGRAM, "status", "--watch", "--json"]
    with (
        closing(EventStream(redis_url, 2)) as stream,
        start_celery(["--quiet", "worker", "--pool", "solo"], cli.folder, cli.env) as worker,
        subprocess.Popen(command, cwd=cli.folder, env=cli.env, stdout=subprocess.PIPE) as watch,
    ):
        try:
            assert watch.stdout
            for seen in islice(map(json.loads, watch.stdout), 100):
                Heartbeat(stream.connection).beat()  # no beat runs here
                if seen["healthy"]:
                    break
            assert seen["healthy"], seen["problems"]
            assert len(seen["workers"]) == 1
            Heartbeat(stream.connection).beat()
            assert cli.run("status").returncode == 0
            watch.send_signal(signal.SIGINT)
            assert watch.wait(120) == 0
        finally:
            watch.kill()
            worker.kill()


@pytest.fixture
def full_redis(server_folder: Path) -> Iterator[redis.Redis]:
    """Start a separate Redis, which a test fills by `config_set`."""
    with (
        EmbeddedValkey(server_folder / "full", {"appendonly": "no"}) as server,
        redis.Redis.from_url(server.url()) as it,
    ):
        it.config_set("maxmemory", 10**9)
        it.execute_command("CLIENT", "SETNAME", server.url())
        yield it


def test_full_redis_is_reported_and_drained(cli: Cli, full_redis: redis.Redis) -> None:
    url = cli.env["REDIS_URL"] = str(full_redis.client_getname())
    stream = EventStream(url, 2)
    assert stream.read(0, "somebody", 1) == stream.read(1, "somebody", 1) == []  # The consumer groups exist.
    stream.close()
    send(url, 4)
    full_redis.config_set("maxmemory", 1)
    done = cli.run("status", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["redis_memory"] > 1
    assert cli.drained() == figures(applied=4)
