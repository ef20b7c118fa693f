"""The doctor's check of variables: what is read is known, and what is not has a remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from usage_worker.environment import known_variables
from usage_worker.monitoring.check import Check, State
from usage_worker.monitoring.doctor.settings import VARIABLES
from usage_worker.monitoring.inspection import Inspection
from usage_worker.settings import Settings

COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Read no `.env` of the checkout."""
    monkeypatch.chdir(tmp_path)


def check_of_variables() -> Check:
    with Inspection(Settings()) as inspection:
        (check,) = VARIABLES.ask(inspection)
    return check


@pytest.mark.parametrize("variable", sorted(known_variables(Settings)))
def test_variable_that_is_read_is_known(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "/run/secrets/value")
    assert check_of_variables().state is State.OK


@pytest.mark.parametrize("variable", sorted(set(re.findall(r"\bUSAGE_[A-Z_]+", COMPOSE.read_text("utf-8")))))
def test_variable_of_compose_is_known(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "/run/secrets")
    assert check_of_variables().state is State.OK


def test_variable_known_in_env_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("USAGE_API_KEYS_FILE=/run/secrets/api_keys\nUSAGE_SECRETS=/srv/secrets\n")
    assert check_of_variables().state is State.OK


@pytest.mark.parametrize(
    ("variable", "remedy"),
    [
        ("USAGE_RETENTION_DAY", "write USAGE_RETENTION_DAYS"),
        ("USAGE_RETENTION_DAYS_FILE", "write USAGE_RETENTION_DAYS"),
        ("USAGE_API_KEY_FILE", "write USAGE_API_KEYS_FILE"),
        ("USAGE_XYZZY", "unset it; docs/reference/settings.md lists all"),
    ],
)
def test_variable_that_nothing_reads_has_a_remedy(monkeypatch: pytest.MonkeyPatch, variable: str, remedy: str) -> None:
    monkeypatch.setenv(variable, "1")
    check = check_of_variables()
    assert (check.state, check.remedy) == (State.WARN, f"{variable}: {remedy}")


def test_only_a_secret_may_stand_in_a_file() -> None:
    assert {it for it in known_variables(Settings) if it.endswith("_FILE")} == {
        *("USAGE_REDIS_URL_FILE", "REDIS_URL_FILE", "DATABASE_URL_FILE", "USAGE_API_KEYS_FILE"),
        *("USAGE_EMBEDDER_KEY_FILE", "USAGE_REPORT_DATABASE_URL_FILE", "USAGE_BROKER_URL_FILE"),
        "USAGE_FORGET_KEY_FILE",
    }
