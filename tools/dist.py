"""Check what `make dist` built: the archive has what git tracks; the wheel made from it says its version."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Exit with 1 and a line where the archive or the wheel is not as it should be."""
    expected = version("usage-worker")
    (wheel,), (archive,) = (ROOT / "dist").glob("*.whl"), (ROOT / "dist").glob("*.tar.gz")
    if complaint := compare(archive, ROOT):
        sys.exit(complaint)
    with TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        programs = f"{folder}/bin"
        subprocess.run([f"{programs}/python", "-m", "pip", "install", "--quiet", f"{wheel}[server]"], check=True)
        command = [f"{programs}/usage-worker", "--version"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if said != f"usage-worker {expected}":
        sys.exit(f"the wheel says {said!r}; pyproject.toml has {expected}: run make .venv/.installed")
    sys.stdout.write(f"dist/{wheel.name} and dist/{archive.name}: {said}\n")


def compare(archive: Path, checkout: Path) -> str:
    """Return how the files in an archive differ from those that git tracks; an empty text where they do not."""
    with tarfile.open(archive) as files:
        packed = {member.name.partition("/")[2] for member in files if not member.isdir()} - {"PKG-INFO"}
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=checkout, check=True, capture_output=True, text=True).stdout
    tracked = set(listed.split("\0")) - {""}
    differences = {"lacks": tracked - packed, "has what git does not track:": packed - tracked}
    return "; ".join(f"{archive.name} {what} {', '.join(sorted(it))}" for what, it in differences.items() if it)


if __name__ == "__main__":
    main()
