"""docs/reference/tasks.md, from the Celery app and its schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tools.reference.markdown import code, table
from usage_worker.environment import variables_of
from usage_worker.service.app import configuration, make_app
from usage_worker.service.schedule import schedule_entries
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from usage_worker.service.schedule import ScheduleEntry

_INTRODUCTION = """\
# Tasks

The Celery tasks, with the default schedule of those that beat sends. `usage-worker schedule` shows the schedule of an
installation and the last run of each periodic task.

"""


def page() -> str:
    """Return the page."""
    # The defaults, whatever the environment of who generates the page says.
    defaults = Settings.model_construct(embedder="minilm")  # with one, so that its task is sent
    celery = configuration(defaults)
    entries = {entry.task: entry for entry in schedule_entries(defaults)}
    app = make_app(defaults)
    rows = [
        (
            code(name),
            code(celery["task_routes"].get(name, {"queue": celery["task_default_queue"]})["queue"]),
            *_schedule(entries.get(name)),
            str(task.run.__doc__).partition("\n")[0],
        )
        for name, task in sorted(app.tasks.items())
        if not name.startswith("celery.")
    ]
    return _INTRODUCTION + table(("task", "queue", "setting", "default", "meaning"), rows)


def _schedule(entry: ScheduleEntry | None) -> tuple[str, str]:
    """Return the setting that decides when a task is sent, and its default."""
    if entry is None:
        return "", "sent by applications"
    name, _, _ = entry.name.partition("-")
    setting = next(
        (field for field in (f"schedule_{name}", f"{name}_interval") if field in Settings.model_fields), None
    )
    return code(variables_of(setting)[0]) if setting else "", code(entry.description)
