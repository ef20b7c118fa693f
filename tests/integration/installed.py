"""The wheel, installed into empty virtual environments as users install it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]


class Wheel(NamedTuple):
    """The wheel, and the copy of the sources that it was built from."""

    source: Path
    path: Path


class Installed:
    """A virtual environment with the wheel, extras and their dependencies, and nothing of this checkout."""

    def __init__(self, wheel: Wheel, folder: Path, extras: str = "", others: Sequence[str] = ()) -> None:
        self.wheel = wheel
        self.folder = folder / "elsewhere"
        self.folder.mkdir(parents=True)
        self.bin = folder / "venv" / "bin"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.bin.parent], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--quiet", "--no-compile"]
        execute([*pip, f"{wheel.path}{extras}", *others], folder)

    def run(self, *command: str, stdin: str = "", **env: str) -> str:
        """Run a program of the environment outside the checkout, and return its output."""
        return execute([self.bin / command[0], *command[1:]], self.folder, stdin, **env)


def build_wheel(folder: Path) -> Wheel:
    """Build the wheel from the files that the Dockerfile copies, so that both builds have the same input."""
    source = folder / "source"
    source.mkdir()
    for name in copied_files():
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, source / name)
    execute([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source], folder)
    (wheel,) = folder.glob("*.whl")
    return Wheel(source, wheel)


def copied_files() -> list[str]:
    """Return the names of the files and folders that the Dockerfile copies from the checkout."""
    text = (ROOT / "Dockerfile").read_text()
    return [name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for name in line.split()]


def environment(**env: str) -> dict[str, str]:
    """Return the environment of this process without the variables of Python and usage-worker."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "USAGE_"))}
    return kept | env


def execute(command: Sequence[str | Path], folder: Path, stdin: str = "", **env: str) -> str:
    """Run a command and return its output; if it fails, fail with its output."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(**env),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"
    return done.stdout
