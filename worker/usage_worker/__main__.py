"""The command `usage-worker`, also `python -m usage_worker`; the publisher alone installs without its packages."""

import sys


def main() -> None:
    """Run the command; say in one line what to install where the extra `server` is missing."""
    try:
        from usage_worker.cli import main as run  # noqa: PLC0415 - its packages may be missing
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("usage_worker"):
            raise
        sys.stderr.write(f"usage-worker: {error.name} is missing; run pip install 'usage-worker[server]'\n")
        sys.exit(1)
    run()


if __name__ == "__main__":
    main()
