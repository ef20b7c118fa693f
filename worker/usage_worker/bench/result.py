"""What one run of the benchmark measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from usage_worker.testing import Mix

PATHS = ("prepared", "ceiling", "naive", "plain_copy_rollup", "product")


@dataclass(slots=True)
class BenchResult:
    """What a run measured, mostly by mix.

    Attributes:
        events_per_second: by path and mix. `ceiling` is a bare COPY of the events, `prepared` a bare COPY of rows made
            beforehand, `naive` one task per event, `plain_copy_rollup` the application's own COPY and a roll-up by SQL.
        ratio_to_naive: the product's rate as a multiple of the naive one.
        ratio_to_plain_copy_rollup: the product's rate as a multiple of that of `plain_copy_rollup`.
        ratio_to_copy: the product's rate as a share of `ceiling`.
        ratio_to_prepared_copy: the product's rate as a share of `prepared`.
        visible_p50_ms: from an event's time to its commit, at half of the maximum rate, uniform mix.
        visible_p99_ms: likewise.
        track_p50_us: the time of a call of `track`, at the same rate.
        track_p99_us: likewise.
        hot_ratio: the share of updates that stayed in their page, uniform mix.
        wal_bytes_per_event: of the product's path.
        cpu_seconds_per_1000_events: of the product's path, by mix and process, and in all (`total`).
        plain_copy_rollup_cpu_seconds_per_1000_events: likewise, of the path `plain_copy_rollup`.
        exact: whether every total was right; of `plain_copy_rollup` those that it keeps.
        machine: what the figures depend on.
    """

    events_per_second: dict[str, dict[str, float]] = field(default_factory=lambda: {path: {} for path in PATHS})
    ratio_to_naive: dict[str, float] = field(default_factory=dict)
    ratio_to_plain_copy_rollup: dict[str, float] = field(default_factory=dict)
    ratio_to_copy: dict[str, float] = field(default_factory=dict)
    ratio_to_prepared_copy: dict[str, float] = field(default_factory=dict)
    visible_p50_ms: float = 0.0
    visible_p99_ms: float = 0.0
    track_p50_us: float = 0.0
    track_p99_us: float = 0.0
    hot_ratio: float = 0.0
    wal_bytes_per_event: dict[str, float] = field(default_factory=dict)
    cpu_seconds_per_1000_events: dict[str, dict[str, float]] = field(default_factory=dict)
    plain_copy_rollup_cpu_seconds_per_1000_events: dict[str, dict[str, float]] = field(default_factory=dict)
    exact: bool = True
    machine: dict[str, Any] = field(default_factory=dict)

    def record_rates(self, mix: Mix, events: int, seconds: dict[str, float]) -> None:
        """Set the rates of a mix and their ratios from the seconds that each path took for the events."""
        rates = {path: events / seconds[path] for path in PATHS}
        for path, rate in rates.items():
            self.events_per_second[path][mix] = rate
        self.ratio_to_naive[mix] = rates["product"] / rates["naive"]
        self.ratio_to_plain_copy_rollup[mix] = rates["product"] / rates["plain_copy_rollup"]
        self.ratio_to_copy[mix] = rates["product"] / rates["ceiling"]
        self.ratio_to_prepared_copy[mix] = rates["product"] / rates["prepared"]

    def as_dict(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return asdict(self)
