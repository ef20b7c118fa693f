-- The objects of a migrated database, as docs/schema.md shows them. Runs with search_path pg_catalog, so that every name is
-- qualified, and without partitions, which are part of their table. The texts are the same on every version of PostgreSQL.

-- name: relations
SELECT c.oid, n.nspname || '.' || c.relname AS name, c.relkind::text AS kind,
       concat_ws(', ', (SELECT string_agg(option, ', ' ORDER BY option) FROM unnest(c.reloptions) AS option),
                 CASE c.relreplident WHEN 'f' THEN 'replica identity full' END) AS options,
       coalesce(pg_get_partkeydef(c.oid), '') AS partitioned, coalesce(obj_description(c.oid, 'pg_class'), '') AS meaning
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname IN ('public', 'auth')
 WHERE c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
 ORDER BY n.nspname DESC, c.relname COLLATE "C"

-- name: columns
SELECT a.attrelid AS relation, a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
       CASE WHEN a.attnotnull THEN 'no' ELSE 'yes' END AS nullable,
       CASE WHEN a.attidentity <> '' THEN 'identity' ELSE coalesce(pg_get_expr(d.adbin, d.adrelid), '') END AS "default",
       coalesce(col_description(a.attrelid, a.attnum), '') AS meaning
  FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum

-- name: constraints
-- Without NOT NULL, which PostgreSQL 18 lists as well.
SELECT k.conrelid AS relation, k.conname AS name, pg_get_constraintdef(k.oid) AS definition
  FROM pg_constraint k
 WHERE k.contype IN ('c', 'f')
 ORDER BY k.conname COLLATE "C"

-- name: indexes
SELECT x.indrelid AS relation, i.relname AS name, pg_get_indexdef(i.oid) AS definition,
       coalesce(obj_description(i.oid, 'pg_class'), '') AS meaning
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
 ORDER BY i.relname COLLATE "C"

-- name: policies
SELECT p.polrelid AS relation, p.polname AS name,
       CASE p.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update' WHEN 'd' THEN 'delete'
            ELSE 'all' END AS command,
       (SELECT string_agg(role::regrole::text, ', ' ORDER BY role::regrole::text) FROM unnest(p.polroles) AS role) AS roles,
       concat_ws(', ', 'using ' || regexp_replace(pg_get_expr(p.polqual, p.polrelid), '\s+', ' ', 'g'),
                 'check ' || regexp_replace(pg_get_expr(p.polwithcheck, p.polrelid), '\s+', ' ', 'g')) AS condition,
       coalesce(obj_description(p.oid, 'pg_policy'), '') AS meaning
  FROM pg_policy p
 ORDER BY p.polname COLLATE "C"

-- name: functions
SELECT n.nspname || '.' || p.proname AS name, pg_get_function_arguments(p.oid) AS arguments,
       pg_get_function_result(p.oid) AS result, CASE WHEN p.prosecdef THEN 'definer' ELSE 'invoker' END AS security,
       coalesce(obj_description(p.oid, 'pg_proc'), '') AS meaning
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname IN ('public', 'auth')
 ORDER BY n.nspname DESC, p.proname COLLATE "C"
