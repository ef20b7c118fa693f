"""Flower's own pages in Debian's Chromium, while `usage-worker up` counts: figures, queues, and no id of a person."""

from __future__ import annotations

import base64
import re
import uuid
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import urlopen

import psycopg
import pytest
from celery import Celery

from tests.acceptance.test_up import running
from tests.helpers import broker_url, eventually, free_port
from tools.screenshot.chromium import Tab, chromium
from usage_worker.maintenance.partitions import MANAGE_PARTITIONS
from usage_worker.service.app import make_app
from usage_worker.service.queues import QueueName
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.acceptance.test_up import Up

USERS = [str(uuid.uuid4()) for _ in range(3)]
LOGIN = "operator:cross-staple"
# Of each row its cells, by the headings of their columns.
ROWS = """(() => {
  const texts = row => [...row.cells].map(it => it.textContent.trim());
  const headings = texts(document.querySelector('table thead tr'));
  return [...document.querySelectorAll('table tbody tr')].map(texts)
    .map(cells => Object.fromEntries(headings.map((heading, at) => [heading, cells[at]])));
})()"""
PROCESSES = ("Redis", "PostgreSQL", "worker1", "maintenance", "beat", "flower")
FLUSHED = re.compile(r"applied \d+, backlog \d+, oldest [\d.]+ s, quarantined \d+, duplicate \d+, seconds [\d.]+")

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def address() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def up(address: str, server_folder: Path) -> Iterator[Up]:
    folder = server_folder / uuid.uuid4().hex[:8]
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWER_PORT", address.rpartition(":")[2])
        patch.setenv("FLOWER_BASIC_AUTH", LOGIN)
        with running(folder, flower_port=None) as process:
            yield process


@pytest.fixture(scope="module")
def redis_url(up: Up) -> str:
    found = re.search(r"^export REDIS_URL='(\S+)'$", up.printed, re.MULTILINE)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def sent(redis_url: str) -> None:
    """Send events as an application does, one of them for later, and a heartbeat and a periodic task as beat does."""
    events = [{"user_id": user, "agent_id": str(uuid.uuid4()), "tokens": 3} for user in USERS]
    with closing(Celery(broker=broker_url(redis_url))) as sender:
        sender.send_task("monitoring.heartbeat")
        sender.send_task("usage.track", kwargs=events[0])
        sender.send_task("usage.track", kwargs=events[1], countdown=3600)
        sender.send_task("usage.track_many", args=[events[1:]])
        sender.send_task(MANAGE_PARTITIONS, queue=QueueName.MAINTENANCE)


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with chromium() as browser:
        login = base64.b64encode(LOGIN.encode()).decode()
        browser.send("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {login}"})
        browser.set_width(1400)
        yield browser


def test_up_prints_a_line_for_each_process(up: Up, address: str) -> None:
    lines = up.printed.splitlines()
    assert [line.split()[0] for line in lines[:6]] == list(PROCESSES)
    assert all(re.search(r" {2}(process \d+|\w+://\S+)$", line) for line in lines[:6])
    assert lines[5].endswith(f"  {address}")
    assert [line.partition("=")[0] for line in lines[6:9]] == [
        "export DATABASE_URL",
        "export REDIS_URL",
        "export USAGE_UNKNOWN",
    ]
    assert lines[9:] == ["ready; Ctrl-C stops everything"]


@pytest.mark.usefixtures("up")
@pytest.mark.parametrize("page", ["/", "/tasks", "/broker", "/api/tasks", "/api/workers"])
def test_pages_need_the_password(address: str, page: str) -> None:
    with pytest.raises(HTTPError) as refusal:
        urlopen(address + page, timeout=10)  # noqa: S310 - our own address
    refusal.value.close()
    assert refusal.value.code == 401


@pytest.mark.usefixtures("up")
def test_health_needs_no_password(address: str) -> None:
    with urlopen(f"{address}/healthcheck", timeout=10) as reply:  # noqa: S310 - our own address
        assert reply.status == 200


@pytest.mark.usefixtures("sent")
def test_task_list_has_arguments_and_figures(tab: Tab, address: str) -> None:
    rows = eventually(lambda: complete_rows(tab, address), 40)
    tasks = {row["Name"]: row for row in rows}
    assert {row["State"] for row in rows if row["Result"]} == {"SUCCESS"}
    assert tasks["usage.track"]["args"] == "1 event"
    assert tasks["usage.track_many"]["args"] == "2 events"
    assert tasks["usage.flush"]["args"] in ("shard 0", "shard 1")
    flushes = [row["Result"] for row in rows if row["Name"] == "usage.flush"]
    assert all(FLUSHED.fullmatch(result) for result in flushes)
    assert sum(int(result.split(",")[0].split()[1]) for result in flushes) == len(USERS)
    assert re.fullmatch(r"deleted_entries 0, .* seconds [\d.]+", tasks[MANAGE_PARTITIONS]["Result"])
    assert "monitoring.heartbeat" not in tasks


@pytest.mark.usefixtures("sent")
def test_no_page_shows_an_id_of_a_person(tab: Tab, address: str) -> None:
    rows = eventually(lambda: complete_rows(tab, address), 40)
    seen = [page_source(tab)]
    for row in rows:
        if row["Name"].startswith("usage.track"):
            tab.open(f"{address}/task/{row['UUID'][:36]}")
            seen.append(page_source(tab))
            assert "(not shown: ids of people)" in seen[-1]
    for path in ("/api/tasks", "/api/workers?refresh=1", worker_path(tab, address)):
        tab.open(address + path)
        seen.append(page_source(tab))
    assert all(len(source) > 500 for source in seen)
    assert [user for user in USERS for source in seen if user in source] == []


@pytest.mark.usefixtures("sent")
def test_worker_page_names_its_queue_and_pool(tab: Tab, address: str) -> None:
    tab.open(address + worker_path(tab, address))
    text = tab.run("document.body.textContent")
    assert "prefork" in text
    assert "celery" in text


@pytest.mark.usefixtures("sent")
def test_broker_page_has_both_queues_with_their_messages(tab: Tab, address: str) -> None:
    tab.open(f"{address}/broker")
    queues: Rows = tab.run(ROWS)
    assert [row["Queue"] for row in queues] == ["celery", "maintenance"]
    assert all(row["Messages"].isdigit() for row in queues)


@pytest.mark.usefixtures("sent")
def test_inspect_shows_no_id_of_a_person(redis_url: str) -> None:
    with make_app(Settings(REDIS_URL=redis_url)) as app:
        inspect = app.control.inspect(timeout=30, limit=2)
        (later,) = [it["request"] for held in (inspect.scheduled() or {}).values() for it in held]
        flush = eventually(lambda: active_flush(inspect), 20)
    assert later["args"] == "1 event"
    assert USERS[1] not in str(later)
    assert flush["args"] in ("shard 0", "shard 1")


@pytest.mark.usefixtures("sent")
def test_failed_flush_is_listed_with_its_reason(tab: Tab, address: str, up: Up, redis_url: str) -> None:
    with closing(Celery(broker=broker_url(redis_url))) as sender, psycopg.connect(up.database_url) as admin:
        admin.execute("ALTER TABLE usage_intake RENAME TO usage_intake_aside")
        admin.commit()
        sender.send_task("usage.track", kwargs={"user_id": USERS[0], "agent_id": str(uuid.uuid4())})
        try:
            failure = eventually(lambda: failed_flushes(tab, address), 30)[0]
        finally:
            admin.execute("ALTER TABLE usage_intake_aside RENAME TO usage_intake")
    assert failure["args"] in ("shard 0", "shard 1")
    tab.open(f"{address}/task/{failure['UUID'][:36]}")
    assert "usage_intake" in tab.run("document.body.textContent")


def failed_flushes(tab: Tab, address: str) -> Rows:
    return [row for row in task_rows(tab, address) if row["Name"] == "usage.flush" and row["State"] == "FAILURE"]


def active_flush(inspect: Any) -> Any:
    running_now = [task for tasks in (inspect.active() or {}).values() for task in tasks]
    return next((task for task in running_now if task["name"] == "usage.flush"), None)


def complete_rows(tab: Tab, address: str) -> Rows:
    """Return the rows of the task list once all that was sent and is due has ended, no row until then."""
    rows = task_rows(tab, address)
    ended = [row for row in rows if row["State"] == "SUCCESS"]
    applied = sum(int(row["Result"].split(",")[0].split()[1]) for row in ended if row["Name"] == "usage.flush")
    names = {row["Name"] for row in ended}
    is_complete = applied == len(USERS) and {"usage.track", "usage.track_many", MANAGE_PARTITIONS} <= names
    return rows if is_complete else []


def task_rows(tab: Tab, address: str) -> Rows:
    tab.open(f"{address}/tasks", idle=True)
    rows: Rows = tab.run(ROWS)
    return [row for row in rows if len(row) > 1]  # an empty table has a row that says so


def page_source(tab: Tab) -> str:
    source: str = tab.run("document.documentElement.outerHTML")
    return source


def worker_path(tab: Tab, address: str) -> str:
    tab.open(f"{address}/workers")
    path: str = eventually(lambda: tab.run("document.querySelector('a[href*=\"/worker/worker1\"]')?.pathname"))
    return path
