"""Our Celery app with two more tasks that append an event, which time limits end."""

from usage_worker.service import entry_point
from usage_worker.service.app import create_app

app = create_app()
options = entry_point.OPTIONS | {"least_time_limit": None}
app.task(entry_point.track, name="soft", **options, soft_time_limit=0.1, time_limit=60)
app.task(entry_point.track, name="hard", **options, time_limit=0.1)
