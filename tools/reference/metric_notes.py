"""The unit of each metric, and when to worry: what the page of metrics says beside what the code does.

Where an alert watches a metric, the note is the alert's name, so that each threshold is written once.
"""

from __future__ import annotations


def _alert(*names: str) -> str:
    return " or ".join(f"[{name}](../boards.md#alerts)" for name in names) + " fires"


NOTES = {
    "usage_build_info": ("", "processes that were upgraded together have different versions"),
    "usage_status_collected_timestamp_seconds": ("seconds since 1970", _alert("UsageMetricsStale")),
    "usage_healthy": ("0 or 1", "0: `usage_check_fails` says which checks"),
    "usage_problem": ("0 or 1", _alert("UsageCheckWarns")),
    "usage_check_fails": ("0 or 1", _alert("UsageCheckFails", "UsageCheckWarns", "UsageMetricsMissing")),
    "usage_stream_entries": ("entries", _alert("UsageBacklogGrows")),
    "usage_stream_pending_entries": ("entries", "above 0 while no batch is counted: see `usage_flush_failures_total`"),
    "usage_stream_oldest_entry_seconds": ("seconds", _alert("UsageBacklogGrows")),
    "usage_stream_vanished_entries": ("entries", _alert("UsageEntriesVanished")),
    "usage_redis_memory_ratio": ("0 to 1", _alert("UsageRedisFilling")),
    "usage_workers": ("processes", "fewer than you have started"),
    "usage_beat_last_heartbeat_timestamp_seconds": ("seconds since 1970", "older than a minute: no periodic task runs"),
    "usage_flush_last_success_timestamp_seconds": (
        "seconds since 1970",
        "older than a minute: the shard is not counted",
    ),
    "usage_flush_failures": ("flushes", _alert("UsageFlushesFail")),
    "usage_quarantined_events": ("events", _alert("UsageQuarantine")),
    "usage_flush_duration_seconds": ("seconds", "the 95th percentile is above 5, or ten times that of yesterday"),
    "usage_batch_events": ("events", "most are above 20,000: there is always a backlog; add a worker"),
    "usage_event_visible_seconds": ("seconds", _alert("UsageEventsLate")),
    "usage_schema_info": ("", "it is not the version that the workers need; `usage_problem` says so, too"),
    "usage_events": ("events", "`applied` does not increase during hours of use"),
    "usage_partitions_ahead": ("days", "below 2: events of the day after need a partition"),
    "usage_partitions_short": ("0 or 1", "1"),
    "usage_partitions_failed": ("partitions", "above 0: something is in the way; `usage-worker status` names it"),
    "usage_task_last_success_timestamp_seconds": (
        "seconds since 1970",
        'two runs of its schedule are missing; `usage_problem{check="periodic_tasks"}` knows the schedule',
    ),
    "usage_task_duration_seconds": ("seconds", "it is longer than the interval of the task's schedule"),
    "usage_anomalies_open": ("anomalies", "above 0: `usage-worker anomalies` names them"),
    "usage_agents_not_embedded": ("agents", "above 0 for an hour"),
    "usage_http_requests": ("requests", _alert("UsageHttpErrors")),
    "usage_http_request_seconds": ("seconds", "the 95th percentile is above 0.5"),
    "usage_http_events": ("events", "`refused` increases faster than `accepted`"),
}
"""Unit and worry, by the name of the family; a counter's samples have `_total` after it."""

FAILURE_NOTES = {
    "postgresql_unavailable": "no connection, or it was lost; also a read-only server",
    "cancelled": "a limit of time of the server or the role ended a statement",
    "lock": "somebody holds a table, or rows for long",
    "race": "the transaction lost every race against others",
    "schema": "the schema is missing or too old, or an object of the application is in the way",
    "settings": "a setting of the worker, or a right that its role lacks",
    "clock": "the clock of the worker is wrong",
    "redis": "Redis did not answer, or refused a command; counted once it answers again",
    "other": "anything else; the log of the worker has it",
}
QUARANTINE_NOTES = {
    "unknown_user": "`user_id` names no user",
    "unknown_agent": "`agent_id` names no agent",
    "too_old": "`occurred_at` lies before the acceptance window",
    "in_future": "`occurred_at` lies more than 5 minutes ahead",
    "refused_field": "a field is missing, unknown, or has a value that is not accepted",
    "unreadable": "the entry is not JSON, has no events, is too large, or ended every worker that read it",
    "reused_id": "an entry under the id of another one, with other contents",
    "full_counter": "a counter of the pair would exceed its column",
    "forgotten_user": "the user was [erased](../forget.md)",
    "other": "anything else: `usage-worker dead-letters list` has the reasons",
}
