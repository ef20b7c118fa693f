"""The image of the Dockerfile, without a container engine: its steps run in an empty Debian root."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.integration.installed import ROOT, execute

if TYPE_CHECKING:
    from collections.abc import Iterator

# What `python:3.11-slim` has and a minimal Debian does not; Debian 12 has Python 3.11.
PYTHON = "python3-venv,python-is-python3"
# What its Python 3.11.2 needs, and a newer one that fetches the wheels may not.
OLDER_PYTHON = "async-timeout"
WHEELS = "wheels"


class Image(NamedTuple):
    """A root folder, and the settings that the Dockerfile gives to its processes."""

    root: Path
    environment: dict[str, str]
    folder: str
    user: str


def instructions() -> Iterator[tuple[str, str]]:
    """Return the instructions of the Dockerfile, each with its arguments in one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    for line in text.replace("\\\n", "").splitlines():
        name, _, arguments = line.partition(" ")
        if name:
            yield name, arguments.strip()


def build_image(folder: Path) -> Image:
    """Run the steps of the Dockerfile. Packages come from wheels that this machine's pip has fetched before."""
    debian, stages = folder / "debian", dict[str, Path]()
    include = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PYTHON}", "bookworm", str(debian)]
    subprocess.run(include, check=True, timeout=300)
    (extras,) = re.findall(r"\[(\w+)\]", (ROOT / "Dockerfile").read_text("utf-8").partition("pip install")[2])[:1]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(debian / WHEELS)]
    execute([*pip, f"{ROOT}[{extras}]", "hatchling", OLDER_PYTHON], folder)
    image = Image(debian, {}, "/", "root")
    for name, arguments in instructions():
        match name:
            case "FROM":
                stage = folder / f"stage{len(stages)}"
                stages[arguments.partition(" AS ")[2]] = stage
                subprocess.run(["cp", "--archive", debian, stage], check=True, timeout=120)
                image = Image(stage, {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}, "/", "root")
            case "RUN":
                _run(image, arguments)
            case "COPY":
                _copy(image, arguments, stages)
            case "ENV":
                pairs = (word.partition("=") for word in shlex.split(arguments))
                expanded = {key: value.replace("$PATH", image.environment["PATH"]) for key, _, value in pairs}
                image = image._replace(environment=image.environment | expanded)
            case "WORKDIR":
                (image.root / arguments.lstrip("/")).mkdir(parents=True, exist_ok=True)
                image = image._replace(folder=arguments)
            case "USER":
                image = image._replace(user=arguments)
            case "CMD":
                pass  # services have their own
            case _:
                raise AssertionError(f"this test does not know the instruction {name}")
    return image


def _run(image: Image, command: str) -> None:
    # pip takes what was fetched: the root needs no network, and no settings of this machine.
    environment = image.environment | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"/{WHEELS}"}
    variables = [f"{name}={value}" for name, value in environment.items()]
    inside = ["chroot", str(image.root), "env", "--ignore-environment", f"--chdir={image.folder}", *variables]
    subprocess.run([*inside, "sh", "-ec", command], check=True, timeout=500)


def _copy(image: Image, arguments: str, stages: dict[str, Path]) -> None:
    words = arguments.split()
    stage = stages[words.pop(0).partition("=")[2]] if words[0].startswith("--from=") else ROOT
    *sources, target = words
    for source in sources:
        path, place = stage / source.lstrip("/"), image.root / image.folder.lstrip("/") / target
        if target.startswith("/"):
            place = image.root / target.lstrip("/")
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__") if stage == ROOT else None
            shutil.copytree(path, place, symlinks=True, dirs_exist_ok=True, ignore=ignored)
        else:
            shutil.copy(path, place)
