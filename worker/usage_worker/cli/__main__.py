"""`python -m usage_worker.cli` is `usage-worker`."""

from usage_worker.cli import main

main()
