-- What the demo shows, and how it stops a batch in the middle.

-- name: live_totals
-- The sums of all counters, for the lines that the demo prints while it counts.
SELECT coalesce(sum(usage_count), 0) AS uses, coalesce(sum(total_tokens_used), 0) AS tokens,
       coalesce(sum(total_cost_usd), 0) AS cost_usd
  FROM public.user_agents

-- name: hold_counters
-- Lock every row of the counters, in the order and mode of ingest: the next batch waits inside its transaction.
SELECT FROM public.user_agents ORDER BY user_id, agent_id FOR NO KEY UPDATE

-- name: batch_waits
-- Whether a transaction waits for this session. From pg_locks, since pg_stat_activity does not change in a transaction.
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))
)

-- name: busiest_pair
-- What an application reads: one row of its view, of the pair with the most uses.
SELECT agent_name, usage_count, message_count, conversation_count, total_tokens_used, total_cost_usd,
       avg_response_time_ms, success_rate_percent, user_rating, quality_score, usage_status
  FROM public.user_agents_with_details
 ORDER BY usage_count DESC, user_id, agent_id
 LIMIT 1
