"""Throughput of `usage-worker serve`, as `wrk` measures it."""
