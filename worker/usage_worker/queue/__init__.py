"""The queue: Redis Streams."""
