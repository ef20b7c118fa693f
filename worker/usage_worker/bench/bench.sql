-- The benchmark: filling and emptying the tables, the compared paths, and the purge.

-- name: server_statistics
-- The server's version, and counts whose growth the benchmark reports.
SELECT version() AS version, pg_current_wal_lsn() - '0/0'::pg_lsn AS wal_bytes,
       coalesce((SELECT n_tup_upd FROM pg_stat_user_tables WHERE relid = 'public.user_agents'::regclass), 0) AS updates,
       coalesce((SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'public.user_agents'::regclass), 0) AS hot_updates

-- name: ledger_size
-- Bytes of all partitions of the ledger with their indexes.
SELECT sum(pg_total_relation_size(relid))::bigint AS bytes FROM pg_partition_tree('public.usage_events')

-- name: checkpoint
-- Write the filled pages to disk now, so that the measurement does not include it.
CHECKPOINT

-- name: truncate_counters
-- Remove all pairs and everything that was counted for them.
TRUNCATE public.usage_events, public.usage_daily, public.usage_retired_daily, public.user_agent_conversations,
    public.usage_entries, public.usage_intake, public.usage_dead_letters, public.user_agents

-- name: insert_pairs
-- Insert every user with every agent: the rows that the benchmark counts into.
INSERT INTO public.user_agents (user_id, agent_id) SELECT u.id, a.id FROM auth.users u CROSS JOIN public.agents a

-- name: vacuum_pairs
-- Collect statistics for the planner, and summarise the BRIN indexes: an update pays for a BRIN index only where its
-- pages are summarised.
VACUUM (ANALYZE) public.user_agents

-- name: copy_ledger_binary
-- The ceiling: rows into the ledger and nothing else.
COPY public.usage_events (event_id, occurred_at, type, user_id, agent_id, messages, input_tokens, output_tokens, tokens,
    cost_usd, response_time_ms, success, conversation_id, model, rating) FROM STDIN (FORMAT BINARY)

-- name: copy_ledger_text
-- The application's own COPY, for the path without a queue; nobody rates in the benchmark.
COPY public.usage_events (event_id, occurred_at, type, user_id, agent_id, messages, input_tokens, output_tokens, tokens,
    cost_usd, response_time_ms, success, conversation_id, model) FROM STDIN

-- name: index_recorded_at
-- For roll_up_recorded, which would otherwise read the whole day for each 20,000 events.
CREATE INDEX usage_events_recorded_at ON public.usage_events (recorded_at)

-- name: drop_recorded_at_index
-- No other path pays for it.
DROP INDEX public.usage_events_recorded_at

-- name: newest_recorded
-- The next watermark: safe with one writer only, since rows of a transaction that began earlier may still appear.
SELECT max(recorded_at) FROM public.usage_events

-- name: roll_up_recorded
-- Add what lies between two watermarks to the daily totals and to the counters. Running it twice counts twice. It leaves
-- out what the product also keeps: the number of conversations, the mean response time, the last conversation.
WITH new AS MATERIALIZED (
    SELECT * FROM public.usage_events WHERE recorded_at > %(after)s AND recorded_at <= %(upto)s
), totals AS MATERIALIZED (
    SELECT user_id, agent_id, (occurred_at AT TIME ZONE 'UTC')::date AS day, count(*) AS usage_count,
           sum(messages) AS message_count, count(*) FILTER (WHERE success) AS success_count,
           count(*) FILTER (WHERE NOT success) AS error_count, sum(tokens) AS total_tokens_used,
           sum(cost_usd) AS total_cost_usd, coalesce(sum(response_time_ms), 0) AS response_time_total_ms,
           count(response_time_ms) AS response_time_samples,
           coalesce(sum({parts}), 0) AS {parts},
           min(occurred_at) AS first_used_at, max(occurred_at) AS last_used_at
      FROM new
     GROUP BY user_id, agent_id, day
     ORDER BY user_id, agent_id
), conversations AS (
    INSERT INTO public.user_agent_conversations (user_id, agent_id, conversation_id)
    SELECT DISTINCT user_id, agent_id, conversation_id FROM new
    ON CONFLICT DO NOTHING
), daily AS (
    INSERT INTO public.usage_daily AS d (user_id, agent_id, day,
        {ledger_sums}
    )
    SELECT user_id, agent_id, day,
           {ledger_sums}
      FROM totals
    ON CONFLICT (user_id, agent_id, day) DO UPDATE SET
        {ledger_sums} = d.{ledger_sums} + excluded.{ledger_sums}
)
UPDATE public.user_agents ua SET
    updated_at = now(),
    {sums} = ua.{sums} + t.{sums},
    first_used_at = least(ua.first_used_at, t.first_used_at),
    last_used_at = greatest(ua.last_used_at, t.last_used_at)
  FROM totals t
 WHERE ua.user_id = t.user_id AND ua.agent_id = t.agent_id

-- name: track_agent_usage
-- The schema's own function for one event, as the naive path calls it.
SELECT public.track_agent_usage(%(user_id)s, %(agent_id)s, %(success)s, %(tokens)s, %(cost)s, %(response_time)s)

-- name: vacuum_filled_tables
-- Vacuum now what autovacuum would otherwise vacuum during the measurement, since the tables were just filled.
VACUUM (ANALYZE) auth.users, public.user_agents, public.usage_daily, public.user_agent_conversations

-- name: insert_soft_deleted_pairs
-- Insert users whose pairs were all deleted 31 to 40 days ago, after one use each on a day that the ledger still has.
-- Daily totals and conversations are stored in another order than their pairs, as in a table that grew by use.
WITH day AS (
    SELECT (now() AT TIME ZONE 'UTC')::date - 40 AS day
), partition AS (
    SELECT public.usage_events_ensure_day(day) FROM day
), users AS (
    INSERT INTO auth.users (id) SELECT gen_random_uuid() FROM generate_series(1, %(users)s), partition RETURNING id
), pairs AS (
    INSERT INTO public.user_agents (
        user_id, agent_id, deleted_at, usage_count, message_count, success_count, conversation_count
    )
    SELECT u.id, a.id, now() - (31 + 9 * random()) * interval '1 day', 1, 1, 1, 1
      FROM users u CROSS JOIN public.agents a
    RETURNING user_id, agent_id
), days AS (
    INSERT INTO public.usage_daily (
        user_id, agent_id, day, usage_count, message_count, success_count, conversation_count
    )
    SELECT user_id, agent_id, day, 1, 1, 1, 1 FROM pairs, day ORDER BY random()
), conversations AS (
    INSERT INTO public.user_agent_conversations SELECT user_id, agent_id, gen_random_uuid() FROM pairs ORDER BY random()
)
SELECT count(*) AS pairs FROM pairs
