"""A Prometheus process that scrapes what a test runs, every second."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

from tests.boards import PROMETHEUS
from tests.helpers import eventually, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Seconds of a graph.
RANGE = 30


class Prometheus:
    """The HTTP API of a Prometheus on this machine."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def is_ready(self) -> bool:
        try:
            with urlopen(f"{self._url}/-/ready", timeout=5) as reply:  # noqa: S310 - our own address
                return bool(reply.status == 200)
        except OSError:
            return False

    def has_value(self, expression: str, *, is_instant: bool) -> bool:
        """Return whether PromQL has a number as its value, now or in a graph of the last seconds."""
        now = time.time()
        if is_instant:
            found = self._ask("query", query=expression, time=now)
            samples = [series["value"] for series in found["result"]]
        else:
            found = self._ask("query_range", query=expression, start=now - RANGE, end=now, step=1)
            samples = [sample for series in found["result"] for sample in series["values"]]
        return any(not math.isnan(float(value)) for _, value in samples)

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def _ask(self, path: str, **parameters: object) -> Any:
        with urlopen(f"{self._url}/api/v1/{path}?{urlencode(parameters)}", timeout=60) as reply:  # noqa: S310 - our own address
            return json.loads(reply.read())["data"]


@contextmanager
def prometheus(folder: Path, metrics: str, http: str) -> Iterator[Prometheus]:
    """Run a Prometheus with our configuration and rules, shorter intervals, and the servers of two URLs as targets."""
    configuration = (PROMETHEUS / "prometheus.yml").read_text("utf-8").replace("15s", "1s")
    for target, url in (("metrics:9464", metrics), ("serve:8889", http)):
        assert target in configuration
        configuration = configuration.replace(target, urlsplit(url).netloc)
    (folder / "prometheus.yml").write_text(configuration, "utf-8")
    shutil.copy(PROMETHEUS / "alerts.yml", folder)
    port = free_port()
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "tsdb",
        "web.listen-address": f"127.0.0.1:{port}",
        "log.level": "warn",
    }
    with subprocess.Popen(["prometheus", *(f"--{name}={value}" for name, value in options.items())]) as process:
        try:
            server = Prometheus(port)
            eventually(server.is_ready, 30)
            yield server
        finally:
            process.terminate()
