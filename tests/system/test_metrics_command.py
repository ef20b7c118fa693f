"""`usage-worker metrics`: what it says where it cannot serve, or nobody reads."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

from tests.integration.commands import PROGRAM, Cli

if TYPE_CHECKING:
    from pathlib import Path


def test_address_that_cannot_be_served_is_one_line(database: str, redis_url: str, tmp_path: Path) -> None:
    cli = Cli(tmp_path, DATABASE_URL=database, REDIS_URL=redis_url)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for address, port in (("127.0.0.1", taken.getsockname()[1]), ("nowhere.invalid", 9464), ("a..b", 9464)):
            done = cli.run("metrics", "--address", address, "--port", str(port))
            (line,) = done.stderr.splitlines()
            assert (done.returncode, done.stdout) == (1, "")
            assert f"--address {address} --port {port}: " in line
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as nobody_reads:
        command = [PROGRAM, "metrics"]
        ended = subprocess.run(
            command, cwd=tmp_path, env=cli.env, stdout=nobody_reads, stderr=subprocess.PIPE, check=False
        )
    assert ended.stderr == b""
