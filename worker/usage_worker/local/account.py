"""Under which account the servers run, and which folders that account can reach.

PostgreSQL refuses to run as root. Started by root, both servers therefore run as `nobody`; started by anybody
else, they run as that user and all of this is idle (the account is None).
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from usage_worker.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_BASE = 40  # sockets lie below it, whose path has 107 bytes at most


@dataclass(frozen=True)
class Account:
    """An unprivileged account that a root owner hands its servers to."""

    name: str
    uid: int
    gid: int


class Credentials(TypedDict):
    """What `subprocess.Popen` needs to run a command under an account."""

    user: int | None
    group: int | None
    extra_groups: list[int] | None


def server_account() -> Account | None:
    """The account to switch to, or None where the owner's own will do."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedServerError("root needs the user 'nobody' to run PostgreSQL; start as another user") from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def identity(account: Account | None) -> Credentials:
    if account is None:
        return Credentials(user=None, group=None, extra_groups=None)
    return Credentials(user=account.uid, group=account.gid, extra_groups=[])


def reaches(account: Account | None, folder: Path) -> bool:
    """Whether the account can enter the folder; the kernel is asked, since modes alone do not tell (ACLs)."""
    if account is None:
        return os.access(folder, os.X_OK)
    return subprocess.run(["test", "-x", folder], cwd="/", check=False, **identity(account)).returncode == 0


def make_folder(folder: Path, account: Account | None) -> None:
    """Create a folder that the account can enter, with its parents; folders that exist are left as they are.

    Raises:
        EmbeddedServerError: it cannot be created, or an existing parent keeps the account out.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
            if account is not None:
                path.chmod(0o755)  # root's umask may be strict; what is private is made so one level below
    except OSError as error:
        raise EmbeddedServerError(f"cannot create {folder}: {error.strerror}") from None
    if not reaches(account, folder):
        user = account.name if account else "this user"
        raise EmbeddedServerError(
            f"{folder} is out of reach for {user}, the account that servers run under;"
            " choose a data folder below one that everybody may enter, such as /var/lib"
        )


def make_private_folder(folder: Path, account: Account | None) -> None:
    """Create a folder that only the account (and root) can enter."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if account is not None:
        os.chown(folder, account.uid, account.gid)


def give(folder: Path, account: Account) -> None:
    """Make the account the owner of everything below the folder."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder with a short path that the servers' account can enter; removed at the end.

    Raises:
        EmbeddedServerError: no place for temporary files is fit.
    """
    account = server_account()
    candidates = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path("/dev/shm")]  # noqa: S108
    base = next((base for base in candidates if _is_fit(base, account)), None)
    if base is None:
        raise EmbeddedServerError("no folder for temporary files that the servers can reach; set TMPDIR to one")
    folder = Path(tempfile.mkdtemp(prefix="usage-worker-", dir=base))
    try:
        if account is not None:
            folder.chmod(0o711)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_fit(base: Path, account: Account | None) -> bool:
    is_short = len(os.fsencode(base)) <= LONGEST_BASE
    return is_short and os.access(base, os.W_OK) and reaches(account, base)
