"""The independent oracle and generated traffic, for tests, demo and benchmark."""
