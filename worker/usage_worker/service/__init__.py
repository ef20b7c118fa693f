"""Everything that knows Celery: the app, its tasks and their schedule."""
