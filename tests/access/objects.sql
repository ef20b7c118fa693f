-- The objects under access control: relations, functions and schemas, without those of the system, of extensions and of
-- sessions. parts: writable columns of a relation, required arguments of a function; key: columns of the primary key;
-- users: columns that reference a user.
CREATE TEMPORARY TABLE objects AS
WITH schemas AS (
    SELECT oid, nspname, CASE nspname WHEN 'public' THEN '' ELSE nspname || '.' END AS prefix
      FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), extensions AS (
    SELECT objid FROM pg_depend WHERE deptype = 'e'
)
SELECT CASE c.relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' WHEN 'm' THEN 'view' ELSE 'table' END AS kind,
       prefix || c.relname AS name, c.oid, format('%I.%I', n.nspname, c.relname) AS sql_name,
       pg_relation_is_updatable(c.oid, true) <> 0 AS writable,
       ARRAY(SELECT attname::text FROM pg_attribute
              WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum) AS parts,
       ARRAY(SELECT attname::text FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
              WHERE indrelid = c.oid AND indisprimary) AS key,
       ARRAY(SELECT attname::text FROM pg_constraint JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
              WHERE conrelid = c.oid AND confrelid = 'auth.users'::regclass ORDER BY attnum) AS users
  FROM pg_class AS c JOIN schemas AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND c.oid NOT IN (SELECT objid FROM extensions)
UNION ALL
SELECT CASE p.prorettype WHEN 'boolean'::regtype THEN 'predicate' ELSE 'function' END,
       format('%s%s()', prefix, p.proname), p.oid, format('%I.%I', n.nspname, p.proname), false,
       ARRAY(SELECT format('%s %s', p.proargnames[i], format_type(p.proargtypes[i - 1], NULL))
               FROM generate_series(1, p.pronargs - p.pronargdefaults) AS i), '{}', '{}'
  FROM pg_proc AS p JOIN schemas AS n ON n.oid = p.pronamespace
 WHERE p.oid NOT IN (SELECT objid FROM extensions)
UNION ALL
SELECT 'schema', 'schema ' || nspname, oid, quote_ident(nspname), false, '{}', '{}', '{}' FROM schemas
