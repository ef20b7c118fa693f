"""Totals: whether the last comparison of counters, roll-up, ledger and intake totals was complete and left nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usage_worker.maintenance.reconcile import RECONCILE
from usage_worker.monitoring.check import warn
from usage_worker.monitoring.inspection import POSTGRESQL, Section
from usage_worker.wording import counted, utc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usage_worker.monitoring.check import Check
    from usage_worker.monitoring.inspection import Inspection

_REPAIR = "run `usage-worker run reconcile`, which names each, and look for the cause; then with --repair"
_ACCEPT = "; what is unexplained stays until --accept-unexplained records it"
_RAISE = "raise USAGE_RECONCILE_BUDGET; until then, each run compares other parts"


def _reconcile(inspection: Inspection) -> Iterator[Check]:
    """Read the report of the last run: comparing takes minutes."""
    run = inspection.last_runs.get(RECONCILE)
    if run is None:
        return
    left, elsewhere = (run.report.get(name, 0) for name in ("left", "left_elsewhere"))
    when = f"the last run, on {utc(run.finished_at)},"
    if not (left or elsewhere):
        if not run.report.get("complete", True):
            yield warn("reconcile", f"{when} had no time to compare everything", _RAISE)
        return
    unexplained = run.report.get("unexplained")
    reason = f"{when} left {counted(left, 'difference')} of totals"
    if unexplained:
        reason += f", {unexplained:,} of them unexplained"
    if elsewhere:
        reason += f"; it did not compare everything, and runs before it left at least {elsewhere:,}"
    yield warn("reconcile", reason, _REPAIR + (_ACCEPT if unexplained else ""))


RECONCILE_SECTION = Section(("reconcile",), _reconcile, needs=(POSTGRESQL,))
