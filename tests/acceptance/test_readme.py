"""The README's first minute: its blocks are executed and print the documented output."""

from __future__ import annotations

import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import redis

from tests.acceptance.test_up import PROGRAM, folder, running
from tests.documents import blocks
from tests.helpers import environment_without, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.test_up import Up

README = "../README.md"

__all__ = ["folder"]  # a fixture


class Reader:
    """The shell of a second terminal, into which a reader pastes the README's blocks."""

    def __init__(self, up: Up) -> None:
        self._exports = "\n".join(re.findall(r"^export .*$", up.printed, re.MULTILINE))
        environment = environment_without("USAGE_")
        # As if the virtual environment was activated.
        self._environment = environment | {"PATH": f"{PROGRAM.parent}:{environment['PATH']}"}

    def shell(self, command: str, stdin: str = "") -> str:
        """Run a command after the exports that `up` prints, and return its output."""
        done = subprocess.run(
            ["sh", "-e", "-c", f"{self._exports}\n{command}"],
            input=stdin,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def python(self, block: str) -> str:
        return self.shell("python", block)


def test_the_first_minute_ends_in_the_printed_row(folder: Path) -> None:
    publish, select = (block for block in blocks(README, "python") if "import" in block)
    (printed,) = blocks(README, "text")
    (add,) = blocks(README, "sh")
    assert len(publish.strip().splitlines()) - publish.count("\n\n") == 4
    with running(folder) as up:
        reader = Reader(up)
        assert reader.python(publish) == ""
        assert eventually(lambda: reader.python(select)) == printed
        with redis.Redis.from_url(reader.shell('printf %s "$REDIS_URL"')) as client:
            client.execute_command(*shlex.split(add)[1:])
        assert eventually(lambda: " | 2 | 1944 | " in reader.python(select))
        # With the pasted exports, `drain` counts as the workers do.
        assert reader.shell('printf %s "$USAGE_UNKNOWN"') == "create"
