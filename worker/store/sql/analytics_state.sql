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
