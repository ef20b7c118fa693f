"""A file that a command writes whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from usage_worker.cli.output import write
from usage_worker.errors import OutputError


def write_file(name: str, text: str) -> None:
    """Write a text to a file, which readers see as it was or whole; `-` is standard output.

    Raises:
        OutputError: it cannot be written.
    """
    if name == "-":
        write(text)
        return
    try:
        # A link stays one; a pipe or a terminal is written to, not replaced.
        path = Path(name).resolve()
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        draft = path.with_name(f".{path.name[:200]}.{os.getpid()}")
        try:
            draft.touch()
            if path.exists():
                # Before the text is in it: who may not read the old file may not read the new one.
                shutil.copymode(path, draft)
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    # ValueError: the name has a null byte; RuntimeError: its links go round in a circle.
    except (OSError, ValueError, RuntimeError) as error:
        raise OutputError(f"{name!r}: {getattr(error, 'strerror', None) or error}") from None
