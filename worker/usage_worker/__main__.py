"""The command `usage-worker`, also `python -m usage_worker`; the publisher alone installs without its packages."""

from __future__ import annotations

import os
import signal
import sys

# As in `typing`, which takes 13 ms to load: until then Ctrl-C is Python's own.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

# As in a shell.
EXIT_INTERRUPTED = 128 + signal.SIGINT


def main() -> None:
    """Run the command; say in one line what to install where the extra `server` is missing."""
    # Packages that are loading, and finalizers, lose a KeyboardInterrupt or print it.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, _leave)
    run = _load()
    try:
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, _leave)


def _load() -> Callable[[], None]:
    from usage_worker.errors import ExtraMissingError, needs_extra  # noqa: PLC0415 - see `main`

    try:
        with needs_extra("server"):
            from usage_worker.cli import main as run  # noqa: PLC0415 - its packages may be missing
    except ExtraMissingError as error:
        sys.stderr.write(f"usage-worker: {error}\n")
        sys.exit(1)
    return run


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
