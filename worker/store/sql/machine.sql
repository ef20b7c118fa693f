-- What the figures of a benchmark depend on.
SELECT version() AS version, pg_current_wal_lsn() - '0/0'::pg_lsn AS wal_bytes,
       coalesce((SELECT n_tup_upd FROM pg_stat_user_tables WHERE relid = 'public.user_agents'::regclass), 0) AS updates,
       coalesce((SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'public.user_agents'::regclass), 0) AS hot_updates
