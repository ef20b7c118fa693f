"""`python -m worker.cli` is `usage-worker`."""

from worker.cli import main

main()
