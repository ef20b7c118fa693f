"""Defaults of Flower's settings; its own variables, configuration file and options replace them."""

from __future__ import annotations

import os

DEFAULTS = {
    # By default 100,000, which are 411 MiB; these are 41 MiB, and three hours of two busy shards.
    "FLOWER_MAX_TASKS": "10000",
    # By default without arguments and results, in which the figures are.
    "FLOWER_TASKS_COLUMNS": "name,args,state,result,received,runtime,worker",
}


def set_flower_defaults() -> None:
    """Set what the environment does not; Flower reads it after our app is made."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
