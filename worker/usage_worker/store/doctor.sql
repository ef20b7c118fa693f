-- What `usage-worker doctor` asks, beside the queries of the status. Each reads catalogues and statistics that every role
-- may read; what a role may not see is NULL.

-- name: postgresql_versions
-- The server's version, and pgvector's: installed in this database, and the one that the server could install.
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::integer AS number,
       (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'vector') AS vector,
       (SELECT default_version FROM pg_catalog.pg_available_extensions WHERE name = 'vector') AS available

-- name: missing_rights
-- What counting, or an owner's making of partitions, does and this role may not. Column by column `migrate verify`
-- compares it.
SELECT format('%%s on %%s', privilege, c.relname) AS missing
  FROM (VALUES
           ('usage_entries', 'SELECT,INSERT,UPDATE'), ('usage_event_keys', 'SELECT,INSERT'),
           ('usage_events', 'SELECT,INSERT'), ('usage_daily', 'SELECT,INSERT,UPDATE'),
           ('usage_intake', 'SELECT,INSERT,UPDATE'), ('usage_dead_letters', 'SELECT,INSERT'),
           ('user_agents', 'SELECT,INSERT,UPDATE'), ('user_agent_conversations', 'SELECT,INSERT'),
           ('agent_usage_hour_marks', 'INSERT'), ('usage_external_ids', 'SELECT,INSERT'),
           ('usage_id_namespace', 'SELECT'), ('usage_task_runs', 'SELECT'), ('usage_migrations', 'SELECT')
       ) AS needed (name, privileges)
  JOIN pg_catalog.pg_class c ON c.relname = needed.name AND c.relnamespace = 'public'::regnamespace,
       unnest(string_to_array(privileges, ',')) AS privilege
 WHERE NOT has_any_column_privilege(c.oid, privilege)
 UNION ALL
SELECT format('EXECUTE on %%s', p.proname)
  FROM pg_catalog.pg_proc p
 WHERE p.pronamespace = 'public'::regnamespace AND NOT has_function_privilege(p.oid, 'EXECUTE')
   AND (p.proname IN ('usage_events_ensure_recent_day', 'usage_find_parents', 'usage_rolled_up_days')
        OR %(creates)s::boolean AND p.proname = 'usage_create_parents')
 UNION ALL
SELECT 'USAGE on schema public' WHERE NOT has_schema_privilege('public', 'USAGE')
 UNION ALL
SELECT 'CREATE on schema public' WHERE %(owns)s::boolean AND NOT has_schema_privilege('public', 'CREATE')
 UNION ALL
SELECT format('TEMPORARY on database %%s', current_database())
 WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')

-- name: our_tables
-- Each of our tables with all its partitions: rows and updates as the statistics estimate and count them, sizes in bytes.
SELECT root.relname::text AS name, count(*)::integer AS parts, sum(s.n_live_tup)::bigint AS live,
       sum(s.n_dead_tup)::bigint AS dead, sum(s.n_tup_upd)::bigint AS updates, sum(s.n_tup_hot_upd)::bigint AS hot,
       sum(pg_total_relation_size(c.oid))::bigint AS size, sum(pg_indexes_size(c.oid))::bigint AS indexes,
       max((SELECT option_value FROM pg_options_to_table(c.reloptions) WHERE option_name = 'fillfactor'))::integer
           AS fillfactor,
       bool_or(coalesce((SELECT NOT option_value::boolean FROM pg_options_to_table(c.reloptions)
                          WHERE option_name = 'autovacuum_enabled'), false)) AS unattended
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_class root ON root.oid = coalesce(pg_partition_root(c.oid), c.oid)
  JOIN pg_catalog.pg_stat_user_tables s ON s.relid = c.oid
 WHERE c.relkind = 'r' AND root.relnamespace = 'public'::regnamespace
   AND root.relname ~ '^(usage_|user_agent|agent_|agents$)'
 GROUP BY root.oid, root.relname
 ORDER BY size DESC, name

-- name: database_statistics
-- The size of the database in bytes, and since when its statistics count, NULL for ever.
SELECT pg_database_size(current_database()) AS size, stats_reset AS since
  FROM pg_catalog.pg_stat_database WHERE datname = current_database()

-- name: invalid_indexes
-- Indexes that no query uses and every write maintains, as a CREATE INDEX CONCURRENTLY leaves them that was interrupted.
SELECT i.indexrelid::regclass::text AS name, c.relname::text AS of_table
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
 WHERE NOT i.indisvalid AND c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid = i.indexrelid)
 ORDER BY 1

-- name: connections
-- The sessions of the whole server and our own, with the limits of the server, the database and this role; -1 is none.
SELECT (SELECT sum(numbackends) FROM pg_catalog.pg_stat_database)::integer AS used,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE application_name LIKE 'usage-worker%%')::integer AS ours,
       (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE usename = current_user)::integer AS of_role,
       current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
           - coalesce(current_setting('reserved_connections', true)::integer, 0) AS server_limit,
       (SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = current_user) AS role_limit

-- name: autovacuum
-- Whether and how fast autovacuum works; delay in milliseconds, naptime in seconds. -1 stands for the setting of VACUUM.
SELECT current_setting('autovacuum')::boolean AND current_setting('track_counts')::boolean AS enabled,
       coalesce(nullif(max(setting) FILTER (WHERE name = 'autovacuum_vacuum_cost_limit'), '-1'),
                max(setting) FILTER (WHERE name = 'vacuum_cost_limit'))::integer AS cost_limit,
       coalesce(nullif(max(setting) FILTER (WHERE name = 'autovacuum_vacuum_cost_delay'), '-1'),
                max(setting) FILTER (WHERE name = 'vacuum_cost_delay'))::float8 AS delay,
       max(setting) FILTER (WHERE name = 'autovacuum_naptime') AS naptime,
       max(setting) FILTER (WHERE name = 'autovacuum_max_workers') AS workers
  FROM pg_catalog.pg_settings

-- name: old_snapshots
-- The sessions whose snapshot or transaction keeps dead rows of this database from being removed, the oldest first.
SELECT pid, usename::text AS role, application_name AS application, state,
       extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds
  FROM pg_catalog.pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
   AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
   AND xact_start < clock_timestamp() - make_interval(secs => %(seconds)s)
 ORDER BY xact_start

-- name: sees_sessions
-- Whether this role sees what the sessions of other roles do.
SELECT pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all

-- name: replication_slots
-- The slots that keep WAL, or dead rows, for somebody who does not come; `bytes` of WAL are kept for each.
SELECT slot_name::text AS name, wal_status AS status,
       pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
                       restart_lsn)::bigint AS bytes
  FROM pg_catalog.pg_replication_slots
 WHERE NOT active AND NOT temporary OR wal_status IN ('unreserved', 'lost')
 ORDER BY 1

-- name: replication
-- For whom a commit of this role in this database waits, and the standbys that are connected.
SELECT current_setting('synchronous_commit') AS level, current_setting('synchronous_standby_names') AS names,
       (SELECT count(*) FROM pg_catalog.pg_stat_replication)::integer AS standbys

-- name: prepared_transactions
-- Prepared transactions, which keep dead rows and locks until somebody ends them.
SELECT gid, owner::text AS role, extract(epoch FROM clock_timestamp() - prepared)::float8 AS seconds
  FROM pg_catalog.pg_prepared_xacts
 WHERE database = current_database() AND prepared < clock_timestamp() - make_interval(secs => %(seconds)s)
 ORDER BY prepared

-- name: data_folder
-- The server's data folder, NULL where this role may not see it, and whether the server runs on this machine.
SELECT (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory') AS folder,
       coalesce(inet_server_addr() = inet_client_addr(), true) AS is_local
