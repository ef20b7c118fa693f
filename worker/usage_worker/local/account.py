"""The account that the servers run under, and folders that it can enter.

PostgreSQL refuses to run as root. Started by root, both servers therefore run as `nobody`; started by another user,
they run as that user, and the account is None.
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

LONGEST_BASE = 40  # the path of a socket below it has at most 107 bytes


@dataclass(frozen=True)
class Account:
    """An unprivileged account under which root starts the servers."""

    name: str
    uid: int
    gid: int


class Credentials(TypedDict):
    """Arguments of `subprocess.Popen` that run a command under an account."""

    user: int | None
    group: int | None
    extra_groups: list[int] | None


def server_account() -> Account | None:
    """Return the account to run the servers under; None stands for the owner's own.

    Raises:
        EmbeddedServerError: root runs this, and there is no user `nobody`.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedServerError("root needs the user 'nobody' to run PostgreSQL; start as another user") from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def credentials(account: Account | None) -> Credentials:
    if account is None:
        return Credentials(user=None, group=None, extra_groups=None)
    return Credentials(user=account.uid, group=account.gid, extra_groups=[])


def can_enter(account: Account | None, folder: Path) -> bool:
    """Return whether the account can enter the folder. The kernel decides, since ACLs may override the modes."""
    if account is None:
        return os.access(folder, os.X_OK)
    return subprocess.run(["test", "-x", folder], cwd="/", check=False, **credentials(account)).returncode == 0


def make_folder(folder: Path, account: Account | None) -> None:
    """Create a folder that the account can enter, with its parents; folders that exist are left as they are.

    Raises:
        EmbeddedServerError: it cannot be created, or the account cannot enter an existing parent.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
            if account is not None:
                path.chmod(0o755)  # root's umask may be strict; the folders below are private
    except OSError as error:
        raise EmbeddedServerError(f"cannot create {folder}: {error.strerror}") from None
    if not can_enter(account, folder):
        user = account.name if account else "this user"
        raise EmbeddedServerError(
            f"{folder} is out of reach for {user}, the account that servers run under;"
            " choose a data folder below one that every user may enter, such as /var/lib"
        )


def make_private_folder(folder: Path, account: Account | None) -> None:
    """Create a folder that only the account (and root) can enter."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if account is not None:
        os.chown(folder, account.uid, account.gid)


def change_owner(folder: Path, account: Account) -> None:
    """Make the account the owner of the folder and of everything below it."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder with a short path that the servers' account can enter; remove it at the end.

    Raises:
        EmbeddedServerError: no folder for temporary files is suitable.
    """
    account = server_account()
    candidates = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path("/dev/shm")]  # noqa: S108
    base = next((base for base in candidates if _is_suitable(base, account)), None)
    if base is None:
        raise EmbeddedServerError("no folder for temporary files that the servers can reach; set TMPDIR to one")
    folder = Path(tempfile.mkdtemp(prefix="usage-worker-", dir=base))
    try:
        if account is not None:
            folder.chmod(0o711)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_suitable(base: Path, account: Account | None) -> bool:
    is_short = len(os.fsencode(base)) <= LONGEST_BASE
    return is_short and os.access(base, os.W_OK) and can_enter(account, base)
