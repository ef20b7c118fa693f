-- Shared by tests, demo and benchmark: users and agents to count for, and totals to compare.

-- name: seed_population
-- Insert users and agents; ingest inserts a pair's row at its first use.
WITH users AS (
    INSERT INTO auth.users (id) SELECT unnest(%(users)s::uuid[]) RETURNING id
), agents AS (
    INSERT INTO public.agents (id, name) SELECT id, 'agent ' || id FROM unnest(%(agents)s::uuid[]) AS id RETURNING id
)
SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM agents) AS agents

-- name: counters
-- The columns of user_agents that events determine, to compare with the oracle.
SELECT user_id, agent_id, coalesce(usage_count, 0) AS usage_count, coalesce(message_count, 0) AS message_count,
       coalesce(conversation_count, 0) AS conversation_count, coalesce(success_count, 0) AS success_count,
       coalesce(error_count, 0) AS error_count, coalesce(total_tokens_used, 0) AS total_tokens_used,
       coalesce(total_cost_usd, 0) AS total_cost_usd, coalesce(response_time_total_ms, 0) AS response_time_total_ms,
       coalesce(response_time_samples, 0) AS response_time_samples, avg_response_time_ms, first_used_at, last_used_at,
       user_rating, last_rating_at, quality_score
  FROM public.user_agents

-- name: unbalanced
-- Pairs whose counters are not the sums of their daily totals. Any row is an error.
WITH daily AS (
    SELECT user_id, agent_id, sum(usage_count) AS usage_count, sum(message_count) AS message_count,
           sum(conversation_count) AS conversation_count, sum(success_count) AS success_count,
           sum(error_count) AS error_count, sum(total_tokens_used) AS total_tokens_used,
           sum(total_cost_usd) AS total_cost_usd, sum(response_time_total_ms) AS response_time_total_ms,
           sum(response_time_samples) AS response_time_samples
      FROM public.usage_daily
     GROUP BY user_id, agent_id
)
SELECT user_id, agent_id
  FROM public.user_agents ua FULL JOIN daily d USING (user_id, agent_id)
 WHERE (coalesce(ua.usage_count, 0), coalesce(ua.message_count, 0), coalesce(ua.conversation_count, 0),
        coalesce(ua.success_count, 0), coalesce(ua.error_count, 0), coalesce(ua.total_tokens_used, 0),
        coalesce(ua.total_cost_usd, 0), coalesce(ua.response_time_total_ms, 0), coalesce(ua.response_time_samples, 0))
       IS DISTINCT FROM
       (coalesce(d.usage_count, 0), coalesce(d.message_count, 0), coalesce(d.conversation_count, 0),
        coalesce(d.success_count, 0), coalesce(d.error_count, 0), coalesce(d.total_tokens_used, 0),
        coalesce(d.total_cost_usd, 0), coalesce(d.response_time_total_ms, 0), coalesce(d.response_time_samples, 0))

-- name: visible_latency
-- Milliseconds from an event's time to the commit that made it visible. Needs track_commit_timestamp, which embedded
-- servers switch on.
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY delay) AS p50, percentile_cont(0.99) WITHIN GROUP (ORDER BY delay) AS p99
  FROM (SELECT 1000 * extract(epoch FROM pg_xact_commit_timestamp(xmin) - occurred_at)::float8 AS delay
          FROM public.usage_events) AS delays
