"""An erasure where others hold, own or hide what it needs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest

from tests.conftest import as_login
from tests.erasure import FORGET_KEY, naming
from tests.integration.commands import NOW
from tests.integration.database import run
from tests.integration.erasures import event, forget
from usage_worker.errors import LockHeldError
from usage_worker.events.external_ids import external_ids
from usage_worker.events.tombstones import ForgetKey
from usage_worker.maintenance.forget import Erasure
from usage_worker.maintenance.person import Person
from usage_worker.settings import DEFAULT_ID_NAMESPACE
from usage_worker.store.connection import Store
from usage_worker.store.forget import erase_day, ledger_days
from usage_worker.store.forgotten import forgotten_among, wait_for_batches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.commands import Cli
    from tests.integration.conftest import IngestHarness


DUMPED = """
    SELECT string_agg(oid::regclass::text, ',') FROM pg_class
     WHERE relkind IN ('r', 'p') AND relnamespace IN ('public'::regnamespace, 'auth'::regnamespace)
"""


def test_dump_does_not_keep_an_erasure_waiting(
    harness: IngestHarness, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dump holds every table until its end, which may take hours."""
    monkeypatch.setattr("usage_worker.maintenance.forget.WAIT_SECONDS", 0.5)
    gone = harness.users[0]
    resources, ids = harness.resources, external_ids(DEFAULT_ID_NAMESPACE)
    with psycopg.connect(database) as dump:
        [(tables,)] = dump.execute(DUMPED).fetchall()
        dump.execute(f"LOCK TABLE {tables} IN ACCESS SHARE MODE".encode())
        Erasure(resources.store, resources.stream.connection, ForgetKey(FORGET_KEY), ids).erase([Person(gone)])
    assert naming(database, str(gone)) == set()


def test_erasure_waits_for_who_has_looked_and_names_it(store: Store, database: str) -> None:
    with Store(database) as worker, worker.connection() as batch:
        assert forgotten_among(batch, ForgetKey(FORGET_KEY), [uuid4()]) == set()
        [(pid, role)] = batch.execute("SELECT pg_backend_pid(), current_user").fetchall()
        holder = rf"open for more than 0 s, held by pid {pid} \(usage-worker, role {role}, idle in transaction, \d+ s\)"
        with pytest.raises(LockHeldError, match=holder):
            wait_for_batches(store, 0)
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(wait_for_batches, store, 60)
            with pytest.raises(TimeoutError):
                waiting.result(0.3)
            batch.commit()
            waiting.result(60)


# As on a platform: our owner may use the tables of users and agents, which belong to another role.
OF_ANOTHER_ROLE = """
    CREATE ROLE {owner} LOGIN;
    GRANT USAGE, CREATE ON SCHEMA public TO {owner};
    GRANT USAGE ON SCHEMA auth TO {owner};
    DO $own$
    DECLARE
        v_statement text;
    BEGIN
        FOR v_statement IN
            SELECT format('ALTER TABLE %s OWNER TO {owner}', oid::regclass) FROM pg_class
             WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
               AND relname NOT IN ('user_profiles', 'agents', 'user_role_assignments')
            UNION ALL
            SELECT format('ALTER ROUTINE %s OWNER TO {owner}', oid::regprocedure) FROM pg_proc
             WHERE pronamespace = 'public'::regnamespace
        LOOP
            EXECUTE v_statement;
        END LOOP;
    END $own$;
    GRANT SELECT, REFERENCES ON auth.users, user_profiles, agents, user_role_assignments TO {owner};
    ALTER TABLE user_profiles DISABLE ROW LEVEL SECURITY;
    ALTER TABLE user_role_assignments DISABLE ROW LEVEL SECURITY;
    ALTER TABLE agents DISABLE ROW LEVEL SECURITY
"""
ROWS = """
    INSERT INTO user_profiles (id, display_name) VALUES ('{user}', 'Mary Ann') ON CONFLICT DO NOTHING;
    INSERT INTO user_role_assignments (user_id, team_id, role) VALUES ('{user}', gen_random_uuid(), 'member');
    UPDATE agents SET created_by = '{user}' WHERE id = '{agent}'
"""


@pytest.fixture
def platform(forgetter: Cli, harness: IngestHarness, database: str) -> Iterator[str]:
    """Yield our owner, where the tables of users and agents belong to another role; the first user has rows there."""
    owner = f"owner_{uuid4().hex}"
    harness.publish(event(str(harness.users[0]), str(harness.agents[0])))
    harness.flush()
    run(database, ROWS.format(user=harness.users[0], agent=harness.agents[0]))
    run(database, OF_ANOTHER_ROLE.format(owner=owner))
    forgetter.env["DATABASE_URL"] = as_login(database, owner)
    yield owner
    run(database, f"REASSIGN OWNED BY {owner} TO CURRENT_USER; DROP OWNED BY {owner}; DROP ROLE {owner}")


OF_PLATFORM = {"auth.users", "public.user_profiles", "public.user_role_assignments", "public.agents"}
ITS_OWNER = "its owner or the platform must"


def test_what_a_platform_keeps_is_noted_and_the_rest_erased(
    forgetter: Cli, harness: IngestHarness, database: str, platform: str
) -> None:
    gone = str(harness.users[0])
    done = forget(forgetter, gone, "--yes")
    assert naming(database, gone) == OF_PLATFORM
    assert done["notes"] == [
        f"this role may not delete from auth.users; {ITS_OWNER} delete the account there",
        f"this role may not delete from user_profiles; {ITS_OWNER} delete the user's rows there",
        f"this role may not delete from user_role_assignments; {ITS_OWNER} delete the user's rows there",
        f"this role may not change agents; {ITS_OWNER} remove the user from created_by there",
    ]
    kept = ("auth.users.id", "user_profiles.id", "user_role_assignments.user_id", "agents.created_by")
    assert [done["rows"][name] for name in kept] == [0, 0, 0, 0]
    assert done["rows"]["usage_events.user_id"] == 1
    # Where the platform has deleted the account, and foreign keys the rest, nothing is left to do.
    run(database, "DELETE FROM auth.users WHERE id = %s", gone)
    assert forget(forgetter, gone, "--yes")["notes"] == []


def test_rows_hidden_by_a_platform_are_noted(
    forgetter: Cli, harness: IngestHarness, database: str, platform: str
) -> None:
    """They are not seen, so that they look like no rows: before the first answer, too."""
    gone = str(harness.users[0])
    run(
        database,
        f"GRANT DELETE ON user_profiles, user_role_assignments TO {platform}; GRANT UPDATE ON agents TO {platform}",
    )
    run(database, "ALTER TABLE user_profiles ENABLE ROW LEVEL SECURITY")
    run(database, f"REVOKE SELECT ON user_role_assignments FROM {platform}")
    hidden = [
        f"{name}: rows may be hidden from this role; its owner must erase the user there"
        for name in ("user_profiles.id", "user_role_assignments.user_id")
    ]
    planned = forget(forgetter, gone, "--dry-run")
    assert planned["notes"] == hidden
    assert "user_profiles.id" not in planned["rows"]
    assert planned["rows"]["agents.created_by"] == 1
    done = forget(forgetter, gone, "--yes")
    assert done["notes"] == [*hidden, f"this role may not delete from auth.users; {ITS_OWNER} delete the account there"]
    assert naming(database, gone) == OF_PLATFORM - {"public.agents"}
    assert forget(forgetter, "--again", "--yes")["notes"] == done["notes"]


KEEPS = """
    CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {does}; END';
    CREATE TRIGGER keep BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION keep()
"""


@pytest.mark.parametrize("does", ["RAISE EXCEPTION ''%'', OLD.id", "RETURN NULL"])
def test_trigger_of_the_application_keeps_its_row_alone(
    forgetter: Cli, harness: IngestHarness, database: str, does: str
) -> None:
    gone = str(harness.users[0])
    run(database, ROWS.format(user=gone, agent=harness.agents[0]))
    run(database, "DELETE FROM user_agents WHERE user_id = %s", gone)
    run(database, KEEPS.format(table="auth.users", does=does))
    why = "a constraint or trigger of the application keeps auth.users.id; delete the account in the application"
    assert forget(forgetter, gone, "--yes")["notes"] == [why]
    assert naming(database, gone) == {"auth.users"}


def test_trigger_that_keeps_a_row_of_ours_fails_the_erasure(
    forgetter: Cli, harness: IngestHarness, database: str
) -> None:
    gone = str(harness.users[0])
    harness.publish(event(gone, str(harness.agents[0])))
    harness.flush()
    run(database, KEEPS.format(table="user_agents", does="RETURN NULL"))
    refused = forgetter.error_line(f"forget {gone} --yes")
    assert "keeps 1 row of the user in user_agents; remove it, and repeat this" in refused
    run(database, "DROP FUNCTION keep CASCADE")
    assert forget(forgetter, gone, "--yes")["notes"] == []
    assert naming(database, gone) == set()


def test_deferred_foreign_key_keeps_the_account_alone(forgetter: Cli, harness: IngestHarness, database: str) -> None:
    gone = str(harness.users[0])
    deferred = "REFERENCES auth.users DEFERRABLE INITIALLY DEFERRED"
    run(database, f"CREATE SCHEMA shop; CREATE TABLE shop.orders AS SELECT '{gone}'::uuid AS buyer")
    run(database, f"ALTER TABLE shop.orders ADD FOREIGN KEY (buyer) {deferred}")
    done = forget(forgetter, gone, "--yes")
    assert done["notes"] == [
        "rows of the application refer to the account in auth.users; delete them, then the account"
    ]
    assert naming(database, gone) == {"auth.users"}


def test_events_in_partitions_of_other_names_are_erased(forgetter: Cli, harness: IngestHarness, database: str) -> None:
    """As of an archived day that was brought back."""
    gone = str(harness.users[0])
    harness.publish(event(gone, str(harness.agents[0])))
    harness.flush()
    day = NOW.date()
    bounds = f"FROM ('{day}') TO ('{day + timedelta(days=1)}')"
    partition = f"usage_events_{day:%Y%m%d}"
    run(
        database,
        f"ALTER TABLE usage_events DETACH PARTITION {partition}; CREATE SCHEMA archive;"
        f'ALTER TABLE {partition} RENAME TO "Old"; ALTER TABLE "Old" SET SCHEMA archive;'
        f'ALTER TABLE usage_events ATTACH PARTITION archive."Old" FOR VALUES {bounds}',
    )
    forget(forgetter, gone, "--yes")
    assert run(database, "SELECT count(*) FROM usage_events") == [(0,)]


@pytest.mark.parametrize("how", ["ENABLE ROW LEVEL SECURITY", "column"])
def test_ids_of_hidden_users_do_not_pass_for_ownerless(
    forgetter: Cli, harness: IngestHarness, database: str, platform: str, how: str
) -> None:
    """Where the platform shows one column of the accounts only, they are counted as well."""
    gone, other = map(str, harness.users[:2])
    run(database, "INSERT INTO usage_external_ids VALUES ('user', %s, 'mary'), ('user', %s, 'bob')", gone, other)
    harness.publish(*(event(user, str(harness.agents[0]), conversation_id=user) for user in (gone, other)))
    harness.flush()
    run(database, "INSERT INTO usage_external_ids SELECT 'conversation', id, external_id FROM usage_external_ids")
    # Then only the event leads to the id of the conversation.
    run(database, "DELETE FROM user_agents WHERE user_id = %s", gone)
    if how == "column":
        run(database, f"REVOKE SELECT ON auth.users FROM {platform}; GRANT SELECT (id) ON auth.users TO {platform}")
    else:
        run(database, f"ALTER TABLE auth.users {how}")
    assert forget(forgetter, gone, "--dry-run")["rows"].get("auth.users.id") == (1 if how == "column" else None)
    forget(forgetter, gone, "--yes")
    kept = "SELECT kind, external_id FROM usage_external_ids ORDER BY kind"
    assert run(database, kept) == [("conversation", "bob"), ("user", "bob")]


def test_days_are_erased_without_a_look_at_all_conversations(harness: IngestHarness, database: str) -> None:
    """They have no index by their ids: a look takes seconds, for each day of the ledger."""
    harness.publish(event(str(harness.users[0]), str(harness.agents[0]), conversation_id=str(harness.users[0])))
    harness.flush()
    store = harness.resources.store
    with psycopg.connect(database) as holder:
        holder.execute("LOCK TABLE user_agent_conversations")
        assert sum(erase_day(store, day, harness.users[0]) for day in ledger_days(store)) == 1
