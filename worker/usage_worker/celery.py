"""The Celery app of `celery -A usage_worker`, and our tasks inside an application's own Celery.

Example:
    >>> import usage_worker.celery
    >>> usage_worker.celery.install(app)
    >>> app.conf.beat_schedule |= usage_worker.celery.beat_schedule()

Importing this module makes no app, changes no `current_app` and connects no signal; `app` is made on first access.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usage_worker.errors import needs_extra
from usage_worker.settings import load_settings

with needs_extra("server"):
    from usage_worker.service import schedule
    from usage_worker.service.app import create_app, install

if TYPE_CHECKING:
    from celery import Celery

    from usage_worker.settings import Settings

    app: Celery

__all__ = ["app", "beat_schedule", "install"]


def beat_schedule(settings: Settings | None = None) -> dict[str, Any]:
    """Return our entries for the `beat_schedule` of a Celery app in which our tasks are installed.

    Crontabs go by the app's own `timezone`. A tick that no worker takes in time expires: the next one does its work.

    Raises:
        SettingsError: a setting is wrong.
    """
    return schedule.beat_schedule(settings or load_settings())


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = made = create_app()
    return made
