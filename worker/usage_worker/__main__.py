"""The command `usage-worker`, also `python -m usage_worker`; the publisher alone installs without its packages."""

from __future__ import annotations

import sys

from usage_worker.interrupts import EXIT_INTERRUPTED, Loading, leave_at_once

# As in `usage_worker.interrupts`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Run the command; say in one line what to install where the extra `server` is missing."""
    with Loading():
        run = _load()
    try:
        run()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    finally:
        # Finalizers are as helpless as packages that load.
        leave_at_once()


def _load() -> Callable[[], None]:
    from usage_worker.errors import ExtraMissingError, needs_extra  # noqa: PLC0415 - see `Loading`

    try:
        with needs_extra("server"):
            from usage_worker.cli import main as run  # noqa: PLC0415 - its packages may be missing
    except ExtraMissingError as error:
        sys.stderr.write(f"usage-worker: {error}\n")
        sys.exit(1)
    return run


if __name__ == "__main__":
    main()
