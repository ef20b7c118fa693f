"""The settings of a session are the same for the workers and for migrations, whose script repeats them in plain SQL."""

from __future__ import annotations

import re

from usage_worker.migrate.queries import query
from usage_worker.postgres import parameters


def test_migrations_set_what_every_session_sets() -> None:
    options = parameters("postgresql://localhost/usage")["options"]
    every = dict(re.findall(r"-c (\w+)=((?:\\.|\S)+)", options))
    assert every.pop("usage_worker.action", "") == ""
    assert every.pop("client_min_messages") == "notice"  # from a search; migrations take warnings only
    migrations = dict(re.findall(r"^SET \"?(\w+)\"? = '?(.*?)'?;$", query("session_settings"), re.MULTILINE))
    assert len(every) > 10
    assert {name: value.replace("\\ ", " ") for name, value in every.items()}.items() <= migrations.items()
