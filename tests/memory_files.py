"""Temporary files in memory: the tests make and drop a thousand databases of 650 files each.

ext4 looks at every file that was deleted within the last seconds before it makes one (`recently_deleted`), so that
CREATE DATABASE took up to 0.65 s of a core there, and takes 0.05 s here.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - each test makes a folder of its own in it
NEEDED_BYTES = 6 * 2**30


def keep_temporary_files_in_memory() -> None:
    """Set TMPDIR to the file system in memory unless it is set, or there is no room, or programs cannot run there."""
    if "TMPDIR" not in os.environ and _is_suitable(SHARED_MEMORY):
        os.environ["TMPDIR"] = str(SHARED_MEMORY)
        tempfile.tempdir = None  # it is cached


def _is_suitable(folder: Path) -> bool:
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return False
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize >= NEEDED_BYTES and not status.f_flag & os.ST_NOEXEC
