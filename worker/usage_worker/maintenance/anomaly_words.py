"""What an anomaly means, in plain words."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from usage_worker.wording import percentage, short_dollars, short_milliseconds, utc

if TYPE_CHECKING:
    from collections.abc import Callable

    from usage_worker.store.anomalies import Anomaly

TOTAL_NAME = "all agents"


def subject(anomaly: Anomaly) -> str:
    """Return the name of the agent, its id where it was deleted, or that it is the total."""
    return TOTAL_NAME if anomaly.agent_id is None else anomaly.agent or str(anomaly.agent_id)


def meaning(anomaly: Anomaly) -> str:
    """Return one line that says what was observed and what was expected."""
    if anomaly.kind == "silence":
        return f"no use, where {anomaly.expected:,.0f} were expected since then"
    observed, expected = figures(anomaly)
    hour = utc(datetime.fromisoformat(anomaly.baseline["hour"]))
    if anomaly.kind == "cost":
        # Where next to nothing was expected, a multiple says nothing.
        is_multiple = anomaly.expected >= anomaly.observed / 1_000
        usual = f", {anomaly.observed / anomaly.expected:,.1f} times the expected" if is_multiple else ""
        return f"{observed} in the hour from {hour}{usual}"
    if anomaly.kind == "errors":
        return f"{observed} of {anomaly.samples:,} uses failed in the hour from {hour}, usually {expected}"
    return f"95 % of responses took up to {observed} in the hour from {hour}, usually {expected}"


def figures(anomaly: Anomaly) -> tuple[str, str]:
    """Return what was observed and what was expected, each with its unit."""
    form = FORMS[anomaly.kind]
    return form(anomaly.observed), form(anomaly.expected)


def _uses(number: float) -> str:
    return f"{number:,.0f} uses"


FORMS: dict[str, Callable[[float], str]] = {
    "cost": short_dollars,
    "errors": percentage,
    "latency": short_milliseconds,
    "silence": _uses,
}
"""How the figures of each kind are written."""
