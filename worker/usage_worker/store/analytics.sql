-- The materialized view of analytics.

-- name: analytics_lock_timeout
-- No setting of a role may cut a long refresh short. One that somebody runs by hand is not waited for, but autovacuum
-- is, which gives way when it was waited for as long as deadlock_timeout, a second.
SET LOCAL statement_timeout = 0;
SET LOCAL lock_timeout = '5s';
-- One core is enough: it is not urgent, and ingest needs the others.
SET LOCAL max_parallel_workers_per_gather = 0

-- name: analytics_state
-- When the figures were computed, whether they would be others now, and whether there are any. The mark holds the UTC
-- day, which moves the windows, what ingest has counted, and how many rows anything has changed. Statistics tell of a
-- change after its commit, some seconds late: that may cause a refresh too many, never one too few.
SELECT s.refreshed_at, s.mark IS NOT DISTINCT FROM m.mark AS fresh, m.mark, c.relispopulated AS filled
  FROM (
    SELECT concat_ws(
               ' ',
               (now() AT TIME ZONE 'UTC')::date,
               (SELECT sum(applied) FROM public.usage_intake),
               (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_catalog.pg_stat_user_tables
                 WHERE relid IN ('public.user_agents'::regclass, 'public.usage_daily'::regclass))
           ) AS mark
  ) m
  JOIN pg_catalog.pg_class c ON c.oid = 'public.user_agent_analytics'::regclass
  LEFT JOIN public.user_agent_analytics_state s ON true

-- name: analytics_fill
-- As a restored dump of the schema leaves it, it has no figures yet, and nothing to compare with.
REFRESH MATERIALIZED VIEW public.user_agent_analytics

-- name: analytics_refresh
-- Readers read on meanwhile, and no writer waits.
REFRESH MATERIALIZED VIEW CONCURRENTLY public.user_agent_analytics

-- name: analytics_note
-- In the transaction of the refresh, so that figures and age are seen together.
INSERT INTO public.user_agent_analytics_state (refreshed_at, mark) VALUES (now(), %(mark)s)
ON CONFLICT (only_row) DO UPDATE SET refreshed_at = excluded.refreshed_at, mark = excluded.mark
RETURNING refreshed_at
