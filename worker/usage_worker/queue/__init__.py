"""Redis: the streams of events, the claims and failures of shards, the heartbeat."""
