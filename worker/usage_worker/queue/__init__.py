"""Redis: the streams of events, the claims and records of shards, the records of processes, the heartbeat."""
