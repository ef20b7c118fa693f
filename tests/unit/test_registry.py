"""Routes, schedule, metrics and reference read the periodic tasks from the registry."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tools.reference import FOLDER, pages
from tools.reference.metrics import STATUS
from usage_worker.errors import SettingsError
from usage_worker.maintenance.registry import PERIODIC_TASKS, PeriodicTask
from usage_worker.monitoring import metrics
from usage_worker.monitoring.background import Collected
from usage_worker.service import app, schedule, tasks
from usage_worker.service.queues import QueueName
from usage_worker.settings import Settings
from usage_worker.store.task_runs import TaskRun

if TYPE_CHECKING:
    from usage_worker.store.connection import Store

PAGES = pages()


class SettingsOfVacuum(Settings):
    schedule_vacuum: str = "600"


def run_vacuum(_store: Store, _settings: Settings) -> dict[str, Any]:
    """Vacuum the tables."""
    return {"vacuumed": 3}


VACUUM = PeriodicTask("maintenance.vacuum", "vacuum", run_vacuum)


@pytest.fixture
def with_vacuum(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (app, metrics, schedule, tasks):
        monkeypatch.setattr(module, "PERIODIC_TASKS", (*PERIODIC_TASKS, VACUUM))


@pytest.mark.usefixtures("with_vacuum")
def test_registry_line_adds_task_with_route_schedule_and_metrics() -> None:
    made = app.make_app(SettingsOfVacuum())
    assert made.tasks[VACUUM.name].run.__doc__ == "Vacuum the tables."
    assert made.conf.task_routes[VACUUM.name] == {"queue": QueueName.MAINTENANCE.value}
    sent = made.conf.beat_schedule["vacuum"]
    expires = 600.0 + schedule.CLOCKS_DIFFER_SECONDS
    assert (sent["task"], sent["schedule"], sent["options"]) == (VACUUM.name, 600.0, {"expires": expires})
    runs = {VACUUM.name: TaskRun(VACUUM.name, datetime.fromtimestamp(7, UTC), 2.0, {})}
    status = replace(STATUS, figures=replace(STATUS.figures, last_runs=runs))
    shown = metrics.families(Collected(status, datetime.now(UTC), status.figures))
    samples = [sample for family in shown for sample in family.samples]
    assert [(it.name, it.value) for it in samples if it.labels == {"task": VACUUM.name}] == [
        ("usage_task_last_success_timestamp_seconds", 7.0),
        ("usage_task_duration_seconds", 2.0),
    ]


def test_task_that_needs_a_setting_is_sent_only_with_it() -> None:
    without = app.make_app(Settings()).conf.beat_schedule
    assert "embed" not in without
    assert without["quality"]["task"] == "analytics.quality", "a search by words weighs it, too"
    sent = app.make_app(Settings(embedder="minilm")).conf.beat_schedule["embed"]
    assert (sent["task"], sent["schedule"]) == ("analytics.embed", 60.0)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"embedder": "word2vec"}, "USAGE_EMBEDDER: there is no embedder 'word2vec'; there are minilm, openai"),
        ({"embedder": "openai"}, "USAGE_EMBEDDER_URL is not set; USAGE_EMBEDDER=openai needs it"),
        (
            {"embedder": "openai", "embedder_url": "https://host/v1"},
            "USAGE_EMBEDDER_MODEL is not set; USAGE_EMBEDDER=openai needs it",
        ),
    ],
)
def test_worker_does_not_start_with_an_embedder_that_cannot_work(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError) as refused:
        app.make_app(Settings(**given))
    assert refused.value.detail == reason


@pytest.mark.usefixtures("with_vacuum")
def test_registry_line_requires_setting() -> None:
    with pytest.raises(AttributeError, match="schedule_vacuum"):
        app.make_app(Settings())


def test_schedule_settings_equal_registry() -> None:
    labels = {name.removeprefix("schedule_") for name in Settings.model_fields if name.startswith("schedule_")}
    assert labels == {periodic.label for periodic in PERIODIC_TASKS}


@pytest.mark.parametrize("periodic", PERIODIC_TASKS, ids=lambda periodic: periodic.label)
def test_reference_has_task_and_its_setting(periodic: PeriodicTask) -> None:
    assert f"| `{periodic.variable}` |" in PAGES[FOLDER / "settings.md"]
    assert f"| `{periodic.name}` | `maintenance` | `{periodic.variable}` |" in PAGES[FOLDER / "tasks.md"]


def test_tasks_of_maintenance_queue_equal_registry() -> None:
    routes = app.configuration(Settings())["task_routes"]
    assert set(routes) == {periodic.name for periodic in PERIODIC_TASKS}


@pytest.mark.parametrize("task", PERIODIC_TASKS, ids=lambda task: task.label)
def test_remedy_of_missed_task_exists(task: PeriodicTask) -> None:
    assert f"`usage-worker run {task.command}`" in PAGES[FOLDER / "commands.md"]
