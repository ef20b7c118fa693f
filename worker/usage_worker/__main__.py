"""The command `usage-worker`, also `python -m usage_worker`; the publisher alone installs without its packages."""

import sys

from usage_worker.errors import ExtraMissingError, server_extra


def main() -> None:
    """Run the command; say in one line what to install where the extra `server` is missing."""
    try:
        with server_extra():
            from usage_worker.cli import main as run  # noqa: PLC0415 - its packages may be missing
    except ExtraMissingError as error:
        sys.stderr.write(f"usage-worker: {error}\n")
        sys.exit(1)
    run()


if __name__ == "__main__":
    main()
