"""The page of `usage-worker report --html`: charts and tables of a report, in one file that loads nothing."""
