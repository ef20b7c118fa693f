"""The periodic tasks, one per file, and what they share; no Celery."""
