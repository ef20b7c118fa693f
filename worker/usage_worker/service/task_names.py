"""The names of our tasks in Celery; `maintenance` has those of the periodic ones."""

FLUSH = "usage.flush"
TRACK = "usage.track"
TRACK_MANY = "usage.track_many"
HEARTBEAT = "monitoring.heartbeat"
