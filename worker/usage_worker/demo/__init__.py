"""The demo: generated traffic through the real system, and every counter compared with the oracle."""
