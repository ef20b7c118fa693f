"""Measure the service with `wrk`, single events and batches of 500: `python -m tools.bench_http`, or `make bench-http`.

Redis is an embedded one that keeps its data; client, service and Redis share the machine. Each request is logged.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import URLError
from urllib.request import urlopen
from uuid import uuid4

from usage_worker.http.keys import Right, make_key
from usage_worker.local import EmbeddedValkey
from usage_worker.local.account import temporary_folder

SECONDS = int(os.environ.get("USAGE_BENCH_SECONDS", "10"))
CONNECTIONS = 16
SIZES = (1, 500)
PROCESSES = (1, 2)


def main() -> None:
    """Print a line for each number of processes and size of a request."""
    sys.stdout.write("processes  events/request  requests/s  events/s  p50 ms  p99 ms  failed\n")
    key, entry = make_key("bench", Right.WRITE)
    with temporary_folder() as folder, EmbeddedValkey(folder / "valkey") as valkey, TemporaryDirectory() as bodies:
        for processes in PROCESSES:
            port = _free_port()
            env = {**os.environ, "REDIS_URL": valkey.url(), "USAGE_API_KEYS": str(entry)}
            program = str(Path(sys.executable).with_name("usage-worker"))
            command = [program, "serve", "--port", str(port), "--workers", str(processes)]
            with subprocess.Popen(command, env=env, cwd=bodies, stderr=subprocess.DEVNULL) as service:
                try:
                    _await(port)
                    for size in SIZES:
                        body = Path(bodies) / f"{size}.json"
                        body.write_text(json.dumps(_events(size)))
                        sys.stdout.write(f"{processes:9}  {size:14}  {_measure(port, body, key, size)}\n")
                        sys.stdout.flush()
                finally:
                    service.terminate()


def _measure(port: int, body: Path, key: str, size: int) -> str:
    script = Path(__file__).with_name("post.lua")
    load = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{SECONDS}s", "--timeout", "30s"]
    command = [*load, "--script", str(script), f"http://127.0.0.1:{port}/api/v1/events", "--", str(body), key]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    requests, microseconds, failed, median, slow = map(int, done.stderr.split())
    rate = requests / microseconds * 1e6
    return f"{rate:10,.0f}  {rate * size:8,.0f}  {median / 1000:6.1f}  {slow / 1000:6.1f}  {failed:6}"


def _events(size: int) -> list[dict[str, object]]:
    agents = [str(uuid4()) for _ in range(20)]
    usage = {"input_tokens": 812, "output_tokens": 160, "cost_usd": "0.0031", "response_time_ms": 900, "model": "large"}
    return [{"user_id": str(uuid4()), "agent_id": agents[number % 20], **usage} for number in range(size)]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _await(port: int) -> None:
    for _ in range(600):
        try:
            urlopen(f"http://127.0.0.1:{port}/livez", timeout=30).close()
        except URLError:
            time.sleep(0.1)
        else:
            return
    sys.exit("the service does not answer")


if __name__ == "__main__":
    main()
