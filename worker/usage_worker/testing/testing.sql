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
SELECT user_id, agent_id,
       coalesce({counters}, 0) AS {counters},
       avg_response_time_ms, first_used_at, last_used_at, user_rating, last_rating_at, quality_score
  FROM public.user_agents

-- name: unbalanced
-- Pairs whose counters are not the sums of their daily totals. Any row is an error.
WITH days AS (
    SELECT user_id, agent_id,
           sum({counters}) AS {counters}
      FROM public.usage_daily
     GROUP BY user_id, agent_id
)
SELECT user_id, agent_id
  FROM public.user_agents ua FULL JOIN days d USING (user_id, agent_id)
 WHERE ARRAY[
           coalesce(ua.{counters}, 0)
       ] <> ARRAY[
           coalesce(d.{counters}, 0)
       ]

-- name: visible_latency
-- Milliseconds from an event's time to the commit that made it visible. Needs track_commit_timestamp, which embedded
-- servers switch on.
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY delay) AS p50, percentile_cont(0.99) WITHIN GROUP (ORDER BY delay) AS p99
  FROM (SELECT 1000 * extract(epoch FROM pg_xact_commit_timestamp(xmin) - occurred_at)::float8 AS delay
          FROM public.usage_events) AS delays
