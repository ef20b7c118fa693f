"""The commands by name: each loads what it needs, and no more."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from usage_worker.cli.commands import load
load(sys.argv[1])
print(*{name.partition(".")[0] for name in sys.modules})
"""


@pytest.mark.parametrize(
    ("name", "needless"),
    [
        ("migrate", {"celery", "numpy", "redis"}),
        ("drain", {"celery", "prometheus_client"}),
        ("publish", {"celery", "numpy", "prometheus_client", "psycopg"}),
    ],
)
def test_command_loads_no_package_of_others(name: str, needless: set[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, name], check=True, capture_output=True, text=True, timeout=60)
    loaded = set(done.stdout.split())
    assert "usage_worker" in loaded
    assert loaded & needless == set()
