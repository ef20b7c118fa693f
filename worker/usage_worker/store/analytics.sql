-- The materialized view of analytics.

-- name: analytics_lock_timeout
-- Too short to wait for a refresh by hand, but long enough for autovacuum, which gives up its lock after
-- deadlock_timeout, a second.
SET LOCAL lock_timeout = '5s';
-- One core: a refresh is not urgent, and ingest needs the others.
SET LOCAL max_parallel_workers_per_gather = 0

-- name: analytics_state
-- When the figures were computed, whether they are current, and whether there are any. The mark consists of the UTC day,
-- which moves the windows, the number of events that ingest has counted, and the number of rows changed by any session.
-- Statistics show a change some seconds after its commit: that may cause an unnecessary refresh, but none is missed.
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
-- After the restore of a schema dump the view is not populated, and CONCURRENTLY has nothing to compare with.
REFRESH MATERIALIZED VIEW public.user_agent_analytics

-- name: analytics_refresh
-- CONCURRENTLY: neither readers nor writers wait.
REFRESH MATERIALIZED VIEW CONCURRENTLY public.user_agent_analytics

-- name: analytics_note
-- In the transaction of the refresh, so that figures and age become visible together.
INSERT INTO public.user_agent_analytics_state (refreshed_at, mark) VALUES (now(), %(mark)s)
ON CONFLICT (only_row) DO UPDATE SET refreshed_at = excluded.refreshed_at, mark = excluded.mark
RETURNING refreshed_at
