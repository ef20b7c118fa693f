"""The package beside other code: few dependencies for publishers, no colliding names, types, a foreign Celery app."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.helpers import broker_url, eventually
from tests.integration.installed import ROOT, Installed, Wheel, build_wheel, environment
from usage_worker.migrate import Runner, latest_version
from usage_worker.monitoring.check import State
from usage_worker.monitoring.status import collect_status
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

USER, AGENT = "6f2c8a52-3c1f-4c39-9d5e-0b6d4f1f8a01", "b7e0c9d4-58aa-4f0e-8a7b-3f1d2c4e5a02"
# Names of modules in applications; a process that imports one of them instead of ours fails.
TRAP = "raise SystemExit('the application\\'s own module was imported')"
FOREIGN_MODULES = ("worker", "app", "tasks", "events", "store", "settings", "migrations", "redis", "structlog")
IMPORT_ONLY = """
from celery import _state, signals
state = lambda: [_state.get_current_app(), *(len(getattr(signals, name).receivers) for name in signals.__all__)]
before = state()
import usage_worker.celery
assert state() == before
"""
FOREIGN_APP = """
from celery import Celery
from celery.signals import worker_ready

import usage_worker.celery

app = Celery("theirs", broker=BROKER, backend=BROKER)
# Defaults of an application for its own tasks, and a route that names no queue.
app.conf.update(task_acks_late=True, task_time_limit=0.5, task_soft_time_limit=0.5, task_track_started=True)
app.conf.task_routes = {"*": {"priority": 5}}
app.conf.beat_schedule = {"their-tick": {"task": "theirs.tick", "schedule": 0.5}}
usage_worker.celery.install(app)
app.conf.beat_schedule |= usage_worker.celery.beat_schedule()

@app.task(name="theirs.tick", ignore_result=True)
def tick():
    open("ticks", "a").write("x")

@worker_ready.connect
def note_handler(sender, **_):
    open("handler", "w").write(type(sender.pool._pool._result_handler).__name__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Wheel, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Install the extra for workers."""
    return Installed(wheel, tmp_path_factory.mktemp("server"), "[server]")


@pytest.fixture(scope="module")
def publisher_only(wheel: Wheel, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Install the wheel without extras, as an application that only publishes does."""
    return Installed(wheel, tmp_path_factory.mktemp("base"))


@pytest.fixture
def folder_with_foreign_modules(installed: Installed, tmp_path: Path) -> Path:
    """Return a folder with modules of an application that have the names of our modules and dependencies."""
    for name in FOREIGN_MODULES:
        (tmp_path / f"{name}.py").write_text(TRAP)
    return tmp_path


def test_wheel_holds_every_file_of_the_package_and_the_migrations(installed: Installed) -> None:
    source = installed.wheel.source
    package = source / "worker" / "usage_worker"
    files = {path.relative_to(package) for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    files |= {path.relative_to(source) for path in (source / "migrations").glob("*.sql")}
    expected = {f"usage_worker/{path}" for path in files}
    read = {
        "http/page.css",
        "http/status.js",
        "report/page.js",
        "report/echarts/LICENSE",
        "queue/reclaim.lua",
        "py.typed",
    }
    assert {f"usage_worker/{path}" for path in read} <= expected
    assert expected - set(zipfile.ZipFile(installed.wheel.path).namelist()) == set()


def test_installed_command_migrates_and_counts(installed: Installed, empty_database: str, redis_url: str) -> None:
    servers = {"DATABASE_URL": empty_database, "REDIS_URL": redis_url, "USAGE_UNKNOWN": "create"}
    assert installed.run("usage-worker", "migrate", "up", **servers).endswith(f"the schema is {latest_version()}\n")
    verified = installed.run("usage-worker", "migrate", "verify", **servers)
    assert verified == f"the schema is {latest_version()}, as it should be\n"
    place = installed.run("python", "-c", "import usage_worker; print(usage_worker.__file__)")
    assert str(installed.folder.parent / "venv") in place
    installed.run("usage-worker", "publish", "-", "--draw-pairs", "2", stdin="{}\n{}\n", **servers)
    shards = json.loads(installed.run("usage-worker", "drain", "--json", **servers))
    assert sum(shard["applied"] for shard in shards) == 2


def test_installed_command_prints_its_version(installed: Installed) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert installed.run("usage-worker", "--version") == f"usage-worker {declared}\n"


def test_publisher_installs_few_packages(publisher_only: Installed) -> None:
    program = "from importlib.metadata import distributions; print(*(d.metadata['Name'] for d in distributions()))"
    packages = set(publisher_only.run("python", "-c", program).split())
    assert len(packages) <= 13, packages
    assert not packages & {"celery", "flower", "psycopg", "typer", "rich", "numpy", "structlog", "pydantic-settings"}


def test_publisher_alone_publishes(publisher_only: Installed, redis_url: str) -> None:
    program = f"""
from usage_worker import UsagePublisher
with UsagePublisher({redis_url!r}) as usage:
    usage.track("{USER}", "{AGENT}")
    assert usage.flush()
    print(usage.stats().sent)
from usage_worker.testing import capture
with capture() as events, UsagePublisher() as usage:
    usage.track("{USER}", "{AGENT}")
    print(len(events))
"""
    assert publisher_only.run("python", "-c", program, USAGE_REDIS_URL="") == "1\n1\n"


def test_command_without_server_extra_names_it(publisher_only: Installed) -> None:
    command = [str(publisher_only.bin / "usage-worker"), "status"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install 'usage-worker[server]'" in done.stderr


def test_service_without_its_extra_names_it(installed: Installed) -> None:
    command = [str(installed.bin / "usage-worker"), "serve"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "pip install 'usage-worker[http]'" in done.stderr


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("celery", "server"),
        ("integrations.celery", "server"),
        ("integrations.langchain", "langchain"),
        ("integrations.litellm", "litellm"),
        ("integrations.opentelemetry", "otel"),
    ],
)
def test_module_without_its_extra_names_it(publisher_only: Installed, module: str, extra: str) -> None:
    program = f"""
try:
    import usage_worker.{module}
except ImportError as error:
    print(error)
"""
    line = publisher_only.run("python", "-c", program)
    assert line.count("\n") == 1
    assert f"pip install 'usage-worker[{extra}]'" in line


def test_traces_without_their_extra_are_one_line(installed: Installed, tmp_path: Path) -> None:
    """A worker that cannot export counts all the same."""
    program = """
from usage_worker.logs import configure_from_environment
from usage_worker.trace_export import begin_export, check_export, end_export
configure_from_environment()
check_export()
begin_export()
end_export()
"""
    command = [str(installed.bin / "python"), "-c", program]
    for variables, lines in (({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, 1), ({}, 0)):
        env = environment() | variables
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stderr.count("\n") == lines
        assert done.stderr.count("pip install 'usage-worker[otel]'") == lines


def test_application_is_typed(publisher_only: Installed, tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("typed_application.py"), tmp_path)
    mypy: list[str] = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--python-executable",
        str(publisher_only.bin / "python"),
    ]
    done = subprocess.run([*mypy, "typed_application.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_worker_starts_own_app_beside_foreign_modules(
    installed: Installed, folder_with_foreign_modules: Path, database: str, redis_url: str
) -> None:
    servers = {"DATABASE_URL": database, "REDIS_URL": redis_url, "USAGE_UNKNOWN": "create"}
    python = [str(installed.bin / "python"), "-P", "-m"]
    command = [
        *python,
        "usage_worker.service",
        "worker",
        "--pool=solo",
        "--beat",
        "--schedule",
        str(folder_with_foreign_modules / "beat"),
    ]
    with _running(command, folder_with_foreign_modules, **servers):
        program = [*python, "usage_worker", "publish", "-", "--draw-pairs", "2"]
        subprocess.run(
            program,
            cwd=folder_with_foreign_modules,
            env=environment(**servers),
            input=b"{}\n{}\n",
            check=True,
            timeout=60,
        )
        eventually(lambda: _counted(database) == 2, 60)


def test_import_creates_no_app_and_connects_no_signal(installed: Installed) -> None:
    assert installed.run("python", "-c", IMPORT_ONLY) == ""


def test_worker_without_price_list_fills_in_nothing(installed: Installed) -> None:
    program = "from usage_worker.ingest.prices import Prices; print(Prices('genai-prices').source)"
    assert installed.run("python", "-c", program) == "None\n"


def test_tasks_run_in_foreign_celery_app(
    installed: Installed, tmp_path: Path, database: str, redis_url: str, redis_client: redis.Redis
) -> None:
    (tmp_path / "theirs.py").write_text(f"BROKER = {broker_url(redis_url)!r}\n{FOREIGN_APP}")
    celery = str(installed.bin / "celery")
    command = [celery, "-A", "theirs", "worker", "--beat", "--concurrency=1", "--schedule", str(tmp_path / "beat")]
    servers = {"DATABASE_URL": database, "REDIS_URL": redis_url, "USAGE_UNKNOWN": "create"}
    event = json.dumps({"user_id": USER, "agent_id": AGENT, "tokens": 972})
    with _running(command, tmp_path, **servers, USAGE_SCHEDULE_PARTITIONS="1"):
        call = [celery, "-A", "theirs", "call", "usage.track", "--kwargs", event]
        subprocess.run(
            call, cwd=tmp_path, env=environment(**servers), check=True, timeout=60, stdout=subprocess.DEVNULL
        )
        eventually(lambda: _counted(database) == 1, 60)
        eventually((tmp_path / "ticks").exists, 30)
        eventually(lambda: _runs(database) >= {"maintenance.manage_partitions"}, 30)
        # Their worker, which takes from their default queue, and the beat in it are seen.
        settings = Settings(DATABASE_URL=database, REDIS_URL=redis_url)
        eventually(lambda: not _problems(settings) & {"consumer_counting", "consumer_maintenance", "beat"}, 30)
        assert (tmp_path / "handler").read_text() == "WholeResults"
    # Who sends `usage.track` by its name asks for a result.
    assert len(redis_client.keys("celery-task-meta-*")) == 1
    assert not re.search("time limit .* exceeded for (?!theirs)", (tmp_path / "process.log").read_text())


def _problems(settings: Settings) -> set[str]:
    return {check.name for check in collect_status(settings).checks if check.state is not State.OK}


@pytest.fixture
def database(empty_database: str) -> str:
    Runner(empty_database).up()
    return empty_database


@contextmanager
def _running(command: list[str], folder: Path, **env: str) -> Iterator[None]:
    log = folder / "process.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment(**env), stdout=output, stderr=output)
    try:
        yield
        assert process.poll() is None, log.read_text()
    except BaseException:
        sys.stderr.write(log.read_text())
        raise
    finally:
        process.terminate()
        try:
            process.wait(120)
        finally:
            process.kill()


def _counted(database: str) -> int:
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT coalesce(sum(usage_count), 0) FROM user_agents").fetchone()
    assert row is not None
    return int(row[0])


def _runs(database: str) -> set[str]:
    with psycopg.connect(database) as connection:
        return {task for (task,) in connection.execute("SELECT task FROM usage_task_runs")}
