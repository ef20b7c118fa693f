"""The commands at the beginning of docs/http.md, against everything that `usage-worker up` runs."""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.acceptance.test_up import folder, running
from tests.documents import blocks
from tests.helpers import eventually
from tests.integration.commands import Cli
from tests.integration.service import serving
from tests.integrations.variables import exports

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.service import Reply, Service

__all__ = ["folder"]  # a fixture

COMMANDS, PUBLISH, ASK = blocks("http.md", "sh")[:3]
ACCEPTED, TOTALS = (json.loads(block) for block in blocks("http.md", "json")[:2])


def curl(service: Service, command: str, **variables: str) -> Reply:
    """Do what curl does with a command's address, headers and body."""
    for name, value in variables.items():
        command = command.replace(f"${name}", value)
    _, address, *options = shlex.split(command.replace("\\\n", " "))
    given = list(zip(options[::2], options[1::2], strict=True))
    headers = dict(value.split(": ", 1) for option, value in given if option == "-H")
    body = next((value for option, value in given if option == "-d"), None)
    url = urlsplit(address)
    return service.send("POST" if body else "GET", f"{url.path}?{url.query}", body, **headers)


def without_days(answer: Any) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d", "", json.dumps(answer))


def test_event_is_in_the_printed_totals(folder: Path, tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    commands = re.findall(r"^usage-worker (new-key .*?) *(?:#.*)?$", COMMANDS, re.MULTILINE)
    answers = [re.findall(r"\t(\S+)$", cli.run(*command.split()).stdout, re.MULTILINE) for command in commands]
    (shop, writer), (billing, reader) = answers
    with running(folder) as up:
        url = exports(up)
        settings = {"USAGE_API_KEYS": f"{writer},{reader}", "DATABASE_URL": url["DATABASE_URL"]}
        with serving(tmp_path, url["REDIS_URL"], **settings) as service:
            answer = curl(service, PUBLISH, SHOP_KEY=shop)
            assert (answer.status, answer.json) == (202, ACCEPTED)
            totals = eventually(lambda: (found := curl(service, ASK, BILLING_KEY=billing).json)["usage"] and found)
    assert without_days(totals) == without_days(TOTALS)
