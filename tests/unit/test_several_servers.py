"""A URL with several hosts: which one is chosen, how long each may take, and what is said where none can be used."""

from __future__ import annotations

import pytest
from psycopg.errors import ReadOnlySqlTransaction

from tests.helpers import free_port
from usage_worker.errors import StoreUnavailableError
from usage_worker.postgres import connect, parameters, translated
from usage_worker.store.servers import each_server

PASSWORD = "s3cretword"
TWO = f"postgresql://me:{PASSWORD}@one:1,[::1]:2/db"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGTARGETSESSIONATTRS"):
        monkeypatch.delenv(name, raising=False)


def test_one_server_is_taken_as_it_is() -> None:
    found = parameters("postgresql://me@one/db", connect_timeout=5)
    assert "target_session_attrs" not in found
    assert found["connect_timeout"] == 5


def test_of_several_the_writable_one_is_taken_unless_the_url_says_more() -> None:
    assert chosen(TWO) == ("read-write", 2)
    assert chosen(TWO + "?target_session_attrs=any&connect_timeout=7") == ("any", "7")
    assert chosen("postgresql:///db?host=/a,/b") == ("read-write", 2)


def test_environment_names_servers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "one,two")
    assert chosen("postgresql:///db") == ("read-write", 2)
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "primary")
    assert chosen("postgresql:///db") == ("primary", 2)


def test_reports_prefer_a_standby() -> None:
    assert parameters(TWO, of_several="prefer-standby")["target_session_attrs"] == "prefer-standby"


def test_error_names_each_server_and_no_password() -> None:
    ports = free_port(), free_port()
    url = f"postgresql://me:{PASSWORD}@127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/db"
    with pytest.raises(StoreUnavailableError) as raised, translated():
        connect(url)
    refused = "Connection refused"
    assert raised.value.detail == f"127.0.0.1:{ports[0]}: {refused}; 127.0.0.1:{ports[1]}: {refused}"


def test_standby_as_the_only_server_is_said_with_the_way_out() -> None:
    with pytest.raises(StoreUnavailableError) as raised, translated():
        raise ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction")
    way_out = "name the primary in DATABASE_URL, or several hosts, of which the one that can be written is used"
    assert raised.value.detail == f"cannot execute INSERT in a read-only transaction; {way_out}"


def test_each_server_is_asked_by_itself() -> None:
    ports = free_port(), free_port()
    url = f"postgresql://me:{PASSWORD}@127.0.0.1:{ports[0]},[::1]:{ports[1]}/db"
    assert each_server(url, pooled=False) == {f"127.0.0.1:{ports[0]}": None, f"[::1]:{ports[1]}": None}
    assert each_server("postgresql://me@127.0.0.1/db", pooled=False) == {}


def chosen(url: str) -> tuple[object, object]:
    found = parameters(url, connect_timeout=5)
    return found["target_session_attrs"], found["connect_timeout"]
