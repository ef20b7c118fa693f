"""Check what `make dist` built: the wheel, made from the sources in the archive, installs and says its version."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

DIST = Path(__file__).parents[1] / "dist"
# Without these a contributor could not test the archive.
NEEDED = {"pyproject.toml", "LICENSE", "CHANGELOG.md", "Makefile", "migrations", "tests", "docs", "worker"}


def main() -> None:
    """Exit with 1 and a line where the archive or the wheel is not complete."""
    expected = version("usage-worker")
    (wheel,), (archive,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {Path(name).parts[1] for name in files.getnames()}
    if missing := NEEDED - names:
        sys.exit(f"{archive.name} lacks {', '.join(sorted(missing))}")
    with TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        programs = f"{folder}/bin"
        subprocess.run([f"{programs}/python", "-m", "pip", "install", "--quiet", f"{wheel}[server]"], check=True)
        command = [f"{programs}/usage-worker", "--version"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if said != f"usage-worker {expected}":
        sys.exit(f"the wheel says {said!r}; pyproject.toml has {expected}: run make .venv/.installed")
    sys.stdout.write(f"dist/{wheel.name} and dist/{archive.name}: {said}\n")


if __name__ == "__main__":
    main()
