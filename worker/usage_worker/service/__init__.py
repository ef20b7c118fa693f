"""Everything that knows Celery: the application, its tasks and their schedule."""
