-- The planner's statistics of tables that named an erased user: most common values and bounds are copies of values.

-- name: newest_erasure
-- When the last of these users was first erased.
SELECT max(forgotten_at) AS at FROM public.usage_forgotten WHERE hash = ANY (%(hashes)s::bytea[])

-- name: stale_statistics
-- Our tables whose statistics may have values of erased users. Of this erasure: those that had rows, with their parents,
-- which autovacuum never analyses; those in which other rows go, too; and those that have the id, of rows that the
-- application has deleted. Of an earlier one, which may not have come to its end: those not analysed since then.
WITH changed AS (
    SELECT oid FROM unnest(%(changed)s::oid[]) AS oid
    UNION
    SELECT parent FROM unnest(%(changed)s::oid[]) AS oid, pg_partition_ancestors(oid) AS parent
)
SELECT n.nspname::text AS schema, c.relname::text AS name,
       c.relkind = 'p' AND current_setting('server_version_num')::integer >= 180000 AS is_alone
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class root ON root.oid = coalesce(pg_partition_root(c.oid), c.oid)
  JOIN pg_catalog.pg_namespace root_schema ON root_schema.oid = root.relnamespace
  JOIN LATERAL (
           SELECT bool_or(
                      concat(t.most_common_vals, t.histogram_bounds, t.most_common_elems) LIKE ANY (%(ids)s::text[])
                  ) AS name_it
             FROM pg_catalog.pg_stats t WHERE t.schemaname = n.nspname AND t.tablename = c.relname
       ) statistics ON name_it IS NOT NULL
  LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid
 WHERE c.relkind IN ('r', 'p', 'm') AND pg_has_role(c.relowner, 'USAGE')
   AND root_schema.nspname || '.' || regexp_replace(root.relname, '_kept_\d+_\d+_\d+$', '') = ANY (%(tables)s::text[])
   AND (name_it OR c.oid IN (SELECT oid FROM changed)
        OR %(changed)s::oid[] <> '{}' AND root_schema.nspname || '.' || root.relname = ANY (%(uncounted)s::text[])
        OR s.n_mod_since_analyze > 0 AND %(since)s::timestamptz IS NOT NULL
        OR %(since)s::timestamptz >= coalesce(greatest(s.last_analyze, s.last_autoanalyze), '-infinity'))
 ORDER BY c.relkind = 'p', n.nspname, c.relname

-- name: analyze_limits
-- Longer than autovacuum takes to give way (deadlock_timeout). Who only reads or writes rows does not wait for ANALYZE.
SET LOCAL statement_timeout = '60s';
SET LOCAL lock_timeout = '3s';
SET LOCAL vacuum_cost_delay = 0;
SELECT CASE WHEN current_setting('transaction_timeout', true) <> '0' THEN set_config('transaction_timeout', '0', true) END

-- name: analyze_table
-- The partitions of a partitioned table, too.
ANALYZE {table}

-- name: analyze_alone
-- From PostgreSQL 18 on: a partitioned table without its partitions.
ANALYZE ONLY {table}
