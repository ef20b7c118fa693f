"""A shell in which the commands of the documents are executed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.helpers import environment_without
from tests.integration.commands import PROGRAM


class Shell:
    """Has the programs of a PostgreSQL, and `usage-worker`."""

    def __init__(self, programs: Path, folder: Path, **urls: str) -> None:
        self._folder = folder
        path = f"{programs}:{Path(PROGRAM).parent}:{os.environ['PATH']}"
        self._environment = environment_without("USAGE_", "PG") | urls | {"PATH": path}

    def execute(self, commands: str) -> str:
        """Execute commands and return their output, without log lines."""
        done = subprocess.run(
            ["sh", "-e", "-c", commands],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
