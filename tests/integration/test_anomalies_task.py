"""The task that judges the last hours, by the clock, and what command, status and metrics say of it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.hourly import DAY, HOUR, WEEK, Hour, write_hours
from tests.integration.database import run, with_option
from usage_worker.maintenance.anomalies import ANOMALIES, find_anomalies, run_find_anomalies
from usage_worker.maintenance.anomaly_words import FORMS
from usage_worker.monitoring.background import collected
from usage_worker.monitoring.metrics import families
from usage_worker.settings import Settings
from usage_worker.store.anomalies import KINDS
from usage_worker.store.connection import Store
from usage_worker.store.task_runs import last_runs, sole_transaction

if TYPE_CHECKING:
    from uuid import UUID

    from tests.integration.commands import Cli

SETTINGS = Settings()
MARK = "INSERT INTO agent_usage_hour_marks VALUES (%s)"


def present(url: str) -> datetime:
    """Return the start of the present hour."""
    found: datetime = run(url, "SELECT date_trunc('hour', now(), 'UTC')")[0][0]
    return found.astimezone(UTC)


def write(url: str, agent: UUID, weeks: int, spike_hours: int = 0) -> datetime:
    """Write the hours of the last weeks, of 60 uses each, the last ones of 600, as rolled up. Returns their end."""
    run(url, "DELETE FROM agent_usage_hour_marks")
    end = present(url)
    begin = end - weeks * WEEK
    hours = (begin + number * HOUR for number in range((end - begin) // HOUR))
    uses = ((hour, 600 if hour >= end - spike_hours * HOUR else 60) for hour in hours)
    write_hours(url, (Hour(agent, hour, number, 0.1 * number) for hour, number in uses), begin, end)
    return end


def name_agent(url: str) -> UUID:
    found: UUID = run(url, "INSERT INTO agents (name) VALUES ('support') RETURNING id")[0][0]
    return found


def test_command_says_since_when_it_judges(cli: Cli, database: str, store: Store) -> None:
    assert cli.run("anomalies").stdout == (
        "no anomaly within 7 days; nothing is judged yet: analytics.anomalies has not run\n"
    )
    run_find_anomalies(store, SETTINGS)
    assert cli.run("anomalies", "--open").stdout == (
        "no anomaly is open; nothing is judged yet: no hour with uses is known\n"
    )
    end = write(database, uuid4(), 2, spike_hours=1)
    figures = run_find_anomalies(store, SETTINGS)
    assert (figures["agents"], figures["new_agents"], figures["open"]) == (0, 1, 0)
    first = f"{end + 2 * WEEK:%Y-%m-%d %H:%M} UTC"
    assert cli.run("anomalies", "--days", "3").stdout == (
        f"no anomaly within 3 days; nothing is judged before {first}, four weeks after the first use\n"
    )


def test_open_anomaly_is_a_warning_of_the_status_and_a_metric(
    cli: Cli, database: str, store: Store, redis_url: str
) -> None:
    agent = name_agent(database)
    end = write(database, agent, 5, spike_hours=2)
    first = find_anomalies(store, SETTINGS)
    assert run_find_anomalies(store, SETTINGS)["open"] == first.open == 2
    rows = json.loads(cli.run("anomalies", "--json", "--open").stdout)["anomalies"]
    assert [(it["agent_id"], it["agent"], it["kind"]) for it in rows] == [
        (None, None, "cost"),
        (str(agent), "support", "cost"),
    ]
    assert {it["started_at"] for it in rows} == {(end - 2 * HOUR).isoformat()}
    assert [(it["observed"], it["expected"]) for it in rows] == 2 * [pytest.approx((60.0, 6.0))]
    lines = cli.run("anomalies", "--agent", "support").stdout.splitlines()
    assert lines[0].split("\t")[:3] == ["agent", "kind", "since"]
    assert lines[1].split("\t")[:2] == ["support", "cost"]
    assert "$60.00 in the hour from" in lines[1]
    assert "10.0 times the expected" in lines[1]
    assert len(lines) == 2
    assert cli.run("anomalies", "--agent", str(uuid4())).stdout.startswith("no anomaly within 7 days; hours of 1 ")

    found = collected(Settings(DATABASE_URL=database, REDIS_URL=redis_url))
    status = found.status
    (check,) = (it for it in status.checks if it.name == "anomalies")
    assert check.state == "warn"
    assert f"cost of support since {end - 2 * HOUR:%Y-%m-%d %H:%M} UTC: $60.00" in check.reason
    assert [it["kind"] for it in status.as_dict()["anomalies"]] == ["cost", "cost"]
    samples = {
        it.labels["kind"]: it.value for family in families(found) for it in family.samples if "anomalies" in it.name
    }
    assert samples == {"cost": 2, "errors": 0, "latency": 0, "silence": 0}


def test_nobody_is_warned_of_anomalies_that_nobody_judges_any_more(database: str, store: Store, redis_url: str) -> None:
    write(database, name_agent(database), 5, spike_hours=2)
    run_find_anomalies(store, SETTINGS)
    settings = Settings(DATABASE_URL=database, REDIS_URL=redis_url)
    off = settings.model_copy(update={"schedule_anomalies": " off"})
    assert "anomalies" in {it.name for it in collected(settings).status.problems}
    found = collected(off)
    assert "anomalies" not in {it.name for it in found.status.problems}
    assert found.status.as_dict()["anomalies"] is None
    assert not any("anomalies" in family.name for family in families(found))


def test_worker_that_counts_sees_how_many_alert_and_not_of_whom(
    database: str, store: Store, redis_url: str, ingest_url: str
) -> None:
    write(database, name_agent(database), 5, spike_hours=2)
    run_find_anomalies(store, SETTINGS)
    counts = "SELECT report -> 'alerts' FROM usage_task_runs WHERE task = %s"
    assert run(database, counts, ANOMALIES) == [({"cost": 2},)]
    assert run(database, "SELECT count(*) FROM usage_task_runs WHERE report::text ~ 'support|[$]'") == [(0,)]
    found = collected(Settings(DATABASE_URL=ingest_url, REDIS_URL=redis_url))
    (alert,) = found.status.as_dict()["anomalies"]
    assert (alert["kind"], alert["count"]) == ("cost", 2)
    samples = [it for family in families(found) for it in family.samples if "anomalies" in it.name]
    assert {it.labels["kind"]: it.value for it in samples} == {"cost": 2, "errors": 0, "latency": 0, "silence": 0}


def test_role_whose_rows_are_hidden_is_refused(cli: Cli, database: str, store: Store) -> None:
    """As `pg_read_all_data`, it may read the table, and sees nothing of it."""
    reader = f"reader_{uuid4().hex}"
    run(database, f"CREATE ROLE {reader} LOGIN; GRANT pg_read_all_data TO {reader}")
    cli.env["DATABASE_URL"] = with_option(database, f"role={reader}")
    assert "this role may not read the anomalies" in cli.error_line("anomalies")
    run(database, f"DROP ROLE {reader}")


def test_kinds_are_those_of_the_table(database: str) -> None:
    definition = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'agent_anomalies_kind_check'"
    assert tuple(re.findall(r"'(\w+)'", run(database, definition)[0][0])) == KINDS == tuple(FORMS)


def test_hours_that_are_not_rolled_up_are_not_judged(database: str, store: Store) -> None:
    end = write(database, uuid4(), 5, spike_hours=1)
    run(database, MARK, end - 2 * HOUR)
    assert find_anomalies(store, SETTINGS).judged_until == (end - 2 * HOUR).isoformat()
    run(database, "DELETE FROM agent_usage_hour_marks")
    figures = run_find_anomalies(store, SETTINGS)
    assert figures["open"] == 2

    run(database, MARK, end - 5 * HOUR)
    assert run_find_anomalies(store, SETTINGS) == figures | {"seconds": pytest.approx(0, abs=600)}, (
        "a late event of an hour that was judged before delays what follows"
    )
    earlier = (end - 4 * HOUR).isoformat()
    run(database, "UPDATE usage_task_runs SET report = report || jsonb_build_object('judged_until', %s::text)", earlier)
    run(database, MARK, end - 3 * WEEK)
    run(database, "DELETE FROM agent_usage_hourly WHERE hour = %s", end - 3 * WEEK)
    report = find_anomalies(store, SETTINGS)
    assert report.judged_until == earlier, "an hour of the comparison is missing"
    assert run(database, "SELECT count(*) FROM agent_anomalies") == [(2,)], "what was found before is gone"


def test_stopped_task_catches_up_at_most_a_week(database: str, store: Store) -> None:
    end = write(database, uuid4(), 7)
    for hours in (6 * 24, 8 * 24):
        run(database, "UPDATE agent_usage_hourly SET total_cost_usd = 60 WHERE hour = %s", end - hours * HOUR)
    until = (end - 10 * DAY).isoformat()
    run(
        database,
        "INSERT INTO usage_task_runs VALUES (%s, now(), 1, jsonb_build_object('judged_until', %s::text))",
        ANOMALIES,
        until,
    )
    run_find_anomalies(store, SETTINGS)
    started = run(database, "SELECT DISTINCT started_at FROM agent_anomalies")
    assert [it.astimezone(UTC) for (it,) in started] == [end - 6 * DAY]


def test_busy_run_changes_nothing(database: str, store: Store) -> None:
    write(database, uuid4(), 5, spike_hours=1)
    with Store(database) as other, sole_transaction(other, ANOMALIES):
        assert run_find_anomalies(store, SETTINGS) == {"busy": True}
    assert last_runs(store) == {}
    assert run(database, "SELECT count(*) FROM agent_anomalies") == [(0,)]


def test_anomalies_go_with_the_hours_they_are_of(database: str, store: Store) -> None:
    insert = """
        INSERT INTO agent_anomalies
        (kind, started_at, ended_at, observed, expected, scale, z, samples, baseline, is_alert)
        SELECT 'cost', now() - %s, now() - %s + interval '1 hour', 2, 1, 1, 7, 12, '{}', true
    """
    for age in (timedelta(days=91), timedelta(days=89)):
        run(database, insert, age, age)
    counts = []
    # The hours stay for as long as the ledger does.
    for settings in (Settings(retention_days=120, hourly_retention_days=60), SETTINGS):
        run_find_anomalies(store, settings)
        counts += run(database, "SELECT count(*) FROM agent_anomalies")
    assert counts == [(2,), (1,)]
