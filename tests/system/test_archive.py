"""The archive of `make dist` has what git tracks, whatever else lies in the folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.integration.installed import execute
from tools.dist import compare

ROOT = Path(__file__).parents[2]
STRAYS = [
    ".env",
    ".env.production",
    "worker/.env",
    "secrets/owner_url",
    "deploy/secrets/redis_url",
    "dump.sql",
    "data/big",
]


def checkout(folder: Path) -> Path:
    """Copy the files that git tracks into a repository of their own."""
    for name in filter(None, execute(["git", "-c", "safe.directory=*", "ls-files", "-z"], ROOT).split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    execute(["git", "init", "--quiet"], folder)
    execute(["git", "add", "--all", "--force"], folder)
    return folder


def test_archive_has_what_git_tracks_and_nothing_else(tmp_path: Path) -> None:
    source = checkout(tmp_path / "source")
    for name in STRAYS:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("s3cretword")
    subprocess.run([sys.executable, "-m", "build", "--sdist", "--outdir", tmp_path, source], check=True, timeout=500)
    (archive,) = tmp_path.glob("*.tar.gz")
    assert compare(archive, source) == ""
    execute(["git", "rm", "--quiet", "--cached", "README.md"], source)
    execute(["git", "add", "dump.sql"], source)
    lacks, strays = compare(archive, source).split("; ")
    assert lacks == f"{archive.name} lacks dump.sql"
    assert strays == f"{archive.name} has what git does not track: README.md"
