"""The servers of the demo and the benchmarks: their child processes run the same code."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from usage_worker.local.isolated_servers import isolated_servers

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_relative_folders_of_modules_stay_what_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("checkout/in_folder.py", "in_current.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    folders = f"checkout{os.pathsep}"  # an empty name means the current folder
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", folders)
    with isolated_servers():
        subprocess.run([sys.executable, "-P", "-c", "import in_folder, in_current"], check=True)
    assert os.environ["PYTHONPATH"] == folders
