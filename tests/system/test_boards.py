"""The queries of the boards against a loaded system: none is empty; the alerts fire and do not fire."""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.boards import ALERT_NAMES, ALERTS, GRAFANA, OPERATIONS, PROMETHEUS, USAGE, interpolated
from tests.helpers import eventually
from tests.integration.commands import Cli, served_metrics
from tests.integration.database import run, traffic
from tests.integration.service import serving
from tests.integration.users import FORBIDDEN
from tests.system.prometheus import Prometheus, prometheus
from usage_worker.local.supervisor import Supervisor
from usage_worker.publisher import UsagePublisher
from usage_worker.store.connection import Store
from usage_worker.testing.sql import query as testing_query
from usage_worker.testing.workload import Population, generate_usage

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.service import Service

    Reader = psycopg.Connection[dict[str, Any]]

BOARDS_ROLE = (GRAFANA / "boards_role.sql").read_text("utf-8")
POPULATION = Population.of(8, 4)
DAYS = timedelta(days=3)
# Prometheus scrapes every second, and Grafana takes at least four scrapes.
RATE_INTERVAL = {"__rate_interval": "8s"}
ANOMALY = """
    INSERT INTO agent_anomalies (kind, started_at, observed, expected, scale, z, samples, baseline, is_alert)
    VALUES ('cost', now() - interval '2 hours', 21.95, 9.85, 1, 15.2, 12, '{}', true)"""
HELD_BACK = r"alertname: {}, eval_time: \d+m, exp_alerts: \[\]"
# What the role of the data source must not do.
REFUSED = (
    "SELECT notes FROM user_agents",
    "SELECT conversation_id FROM usage_events",
    "SELECT created_by FROM agents",
    "SELECT payload FROM usage_dead_letters",
    "SELECT email FROM auth.users",
    "INSERT INTO agent_usage_daily DEFAULT VALUES",
    "UPDATE agents SET name = 'x'",
    "DELETE FROM usage_events",
    "SELECT track_agent_usage(gen_random_uuid(), gen_random_uuid())",
)


@pytest.fixture
def loaded(database: str, redis_url: str, tmp_path: Path) -> Cli:
    """Return commands of a database with users and agents."""
    with Store(database) as store:
        store.rows(testing_query("seed_population"), users=POPULATION.users, agents=POPULATION.agents)
    return Cli(tmp_path, DATABASE_URL=database, REDIS_URL=redis_url)


@pytest.fixture
def reader(database: str) -> Iterator[Reader]:
    """Connect as the role of Grafana's data source, which the file for it makes; it can be run again."""
    for _ in range(2):
        run(database, BOARDS_ROLE)
    try:
        with psycopg.connect(database, autocommit=True, row_factory=dict_row) as connection:
            connection.execute("SET SESSION AUTHORIZATION usage_boards")
            yield connection
    finally:
        run(database, "DROP OWNED BY usage_boards")
        run(database, "DROP ROLE usage_boards")


def send(redis_url: str, count: int, span: timedelta = timedelta()) -> None:
    """Publish uses, the last one now."""
    with UsagePublisher(redis_url, linger=0) as publisher:
        for number, event in enumerate(generate_usage(POPULATION, count, "uniform", 1)):
            assert publisher.track(**event, occurred_at=datetime.now(UTC) - span * number / count)
        assert publisher.flush()


def values_of_usage(period: str, agent: str = "all") -> dict[str, str]:
    """Return what Grafana has for the macros and variables of the board, in a time zone between the hours."""
    now = datetime.now(UTC)
    times = {f"__time{name}()": f"'{time:%Y-%m-%dT%H:%M:%SZ}'" for name, time in (("From", now - DAYS), ("To", now))}
    return times | {"time_zone": "Asia/Kathmandu", "period": period, "agent": agent}


def test_panels_of_usage_have_rows(loaded: Cli, reader: Reader, database: str) -> None:
    send(loaded.env["REDIS_URL"], 300, DAYS)
    assert loaded.drained()["applied"] == 300
    run(database, ANOMALY)
    values = values_of_usage("day")
    periods = [values | {"period": period} for period in ("hour", "day", "week", "month")]
    # Most panels do not depend on the period.
    asked = {interpolated(sql, values): title for title, sql in USAGE.queries("rawSql") for values in periods}
    for sql, title in asked.items():
        rows = reader.execute(sql.encode()).fetchall()
        assert rows, title
        if "time" in rows[0]:
            assert [row["time"] for row in rows] == sorted({row["time"].astimezone(UTC) for row in rows}), title
        empty = [column for column in rows[0] if all(row[column] is None for row in rows)]
        # The anomaly goes on, and an hour has fewer response times than percentiles need.
        assert empty in ([], ["until"], ["50 %", "95 %", "99 %"] if "ARRAY['hour']" in sql else []), title


def test_figures_of_usage_are_those_of_the_ledger(loaded: Cli, reader: Reader, database: str) -> None:
    send(loaded.env["REDIS_URL"], 300, DAYS)
    assert loaded.drained()["applied"] == 300
    agents = reader.execute(interpolated(USAGE.variables["agent"]["query"], values_of_usage("day")).encode()).fetchall()
    assert {row["__value"] for row in agents} == {"all", *map(str, POPULATION.agents)}
    panels = {panel["title"] + panel["type"]: panel["targets"][0]["rawSql"] for panel in USAGE.panels}
    for row in agents:
        agent = row["__value"]
        uses, cost = run(
            database,
            "SELECT count(*), sum(cost_usd) FROM usage_events WHERE %s IN ('all', agent_id::text)",
            agent,
        )[0]
        values = values_of_usage("day", agent)
        found = {name: reader.execute(interpolated(sql, values).encode()).fetchall() for name, sql in panels.items()}
        assert (found["Usesstat"], found["Coststat"]) == ([{"uses": uses}], [{"cost": cost}])
        assert sum(it["succeeded"] + it["failed"] for it in found["Usestimeseries"]) == uses
        assert sum(it["cost"] for it in found["Modelstable"]) == cost


def test_names_in_variables_are_quoted(loaded: Cli, reader: Reader) -> None:
    values = values_of_usage("day") | {"time_zone": "UTC'; DROP TABLE agents; --"}
    for _, sql in USAGE.queries("rawSql"):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="DROP TABLE agents"):
            reader.execute(interpolated(sql, values).encode())


def test_role_of_the_data_source_reads_nothing_else(reader: Reader, loaded: Cli) -> None:
    for statement in REFUSED:
        with pytest.raises(FORBIDDEN):
            reader.execute(statement.encode())
    verified = loaded.run("migrate", "verify")
    assert verified.returncode == 0, verified.stdout


def test_panels_of_operations_have_values(loaded: Cli, tmp_path: Path) -> None:
    database, redis_url = loaded.env["DATABASE_URL"], loaded.env["REDIS_URL"]
    # The tasks that have run are in the board.
    often = {"USAGE_SCHEDULE_PARTITIONS": "2", "USAGE_FLUSH_INTERVAL": "1"}
    with (
        Supervisor(database, redis_url, flower_port=None, log_dir=tmp_path, variables=often),
        served_metrics(loaded) as metrics,
        serving(tmp_path, redis_url, DATABASE_URL=database) as service,
        traffic(lambda over: send_until(over, redis_url, service)),
        prometheus(tmp_path, metrics, f"http://127.0.0.1:{service.port}") as server,
    ):
        with suppress(pytest.fail.Exception):
            eventually(lambda: not empty_panels(server), 90)
        assert empty_panels(server) == []
        rules = server.rules()
        assert [rule["name"] for rule in rules] == ALERT_NAMES
        assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []


def send_until(over: threading.Event, redis_url: str, service: Service) -> None:
    """Publish events, some of an unknown user, and send some by HTTP."""
    unknown = {"user_id": str(POPULATION.agents[0]), "agent_id": str(POPULATION.agents[0])}
    while not over.wait(0.5):
        send(redis_url, 20)
        assert service.post([unknown]).status == 202


def empty_panels(server: Prometheus) -> list[str]:
    """Return the titles of panels of which a query has no value now."""
    return [
        panel["title"]
        for panel in OPERATIONS.panels
        for target in panel["targets"]
        if not server.has_value(interpolated(target["expr"], RATE_INTERVAL), is_instant=target.get("instant", False))
    ]


def promtool(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yml"], cwd=folder, capture_output=True, text=True, check=False
    )


def test_alerts_fire_and_are_held_back(tmp_path: Path) -> None:
    tested = promtool(PROMETHEUS)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    cases = (PROMETHEUS / "alerts_test.yml").read_text("utf-8")
    assert [name for name in ALERT_NAMES if not re.search(HELD_BACK.format(name), cases)] == []
    # The test of each alert fails where it never fires.
    shutil.copytree(PROMETHEUS, tmp_path / "silent")
    silent = re.sub(r"^( +expr: ).*", r"\1vector(0) > 1", ALERTS, flags=re.MULTILINE)
    (tmp_path / "silent" / "alerts.yml").write_text(silent, "utf-8")
    failures = promtool(tmp_path / "silent").stderr
    assert [name for name in ALERT_NAMES if f"alertname: {name}," not in failures] == []


def test_configuration_is_valid() -> None:
    checked = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
