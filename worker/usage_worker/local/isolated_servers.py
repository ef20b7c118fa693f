"""Embedded servers for the demo and the benchmarks, isolated from the user's settings."""

from __future__ import annotations

import os
from contextlib import ExitStack, chdir, contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from usage_worker.environment import known_variables
from usage_worker.local.servers import Servers
from usage_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def isolated_servers() -> Iterator[Servers]:
    """Start embedded servers; this process and its children have the default settings until the block ends.

    What the environment or `.env` says is about the user's own servers and events: it can name other servers, create
    users that a check wants quarantined, or wait for replicas that these servers lack. So the variables are removed,
    and the current folder is an empty one, since `.env` is read there. The folders of PYTHONPATH stay what they were,
    or child processes would run other code than this one.
    """
    with ExitStack() as stack:
        theirs = {name: os.environ.pop(name) for name in known_variables(Settings) & os.environ.keys()}
        stack.callback(os.environ.update, theirs)
        if folders := os.environ.get("PYTHONPATH"):
            stack.callback(os.environ.update, PYTHONPATH=folders)
            os.environ["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, folders.split(os.pathsep)))
        stack.enter_context(chdir(stack.enter_context(TemporaryDirectory(prefix="usage-isolated-"))))
        yield stack.enter_context(Servers(Settings()))
