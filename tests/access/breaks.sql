-- Every statement that breaks one policy, grant or option: its kind, the statement, the name of the object, and the
-- command and the column that should show it first.
WITH grantees (grantee) AS (
    VALUES ('public'), ('anon'), ('authenticated'), ('service_role')
), table_privileges (privilege) AS (
    SELECT unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'])
    UNION ALL SELECT 'MAINTAIN' WHERE current_setting('server_version_num')::integer >= 170000
), acls AS (
    SELECT oid, relacl AS acl FROM pg_class
    UNION ALL SELECT oid, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc
    UNION ALL SELECT oid, nspacl FROM pg_namespace
), present AS (
    SELECT oid, CASE acl.grantee WHEN 0 THEN 'public' ELSE acl.grantee::regrole::text END AS grantee,
           acl.privilege_type AS privilege
      FROM acls, aclexplode(acl) AS acl
), possible AS (
    SELECT o.*, grantee, privilege, o.sql_name AS target, has_table_privilege(grantee, o.oid, privilege) AS allowed,
           lower(privilege) AS command
      FROM objects AS o, grantees, table_privileges WHERE kind IN ('table', 'view')
    UNION ALL
    SELECT o.*, grantee, privilege, 'SEQUENCE ' || o.sql_name, has_sequence_privilege(grantee, o.oid, privilege), 'use'
      FROM objects AS o, grantees, unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) AS privilege WHERE kind = 'sequence'
    UNION ALL
    SELECT o.*, grantee, 'EXECUTE', 'FUNCTION ' || o.oid::regprocedure,
           has_function_privilege(grantee, o.oid, 'EXECUTE'), 'call'
      FROM objects AS o, grantees WHERE kind IN ('function', 'predicate')
    UNION ALL
    SELECT o.*, grantee, privilege, 'SCHEMA ' || o.sql_name, has_schema_privilege(grantee, o.oid, privilege),
           lower(privilege)
      FROM objects AS o, grantees, unnest(ARRAY['USAGE', 'CREATE']) AS privilege WHERE kind = 'schema'
), column_grants AS (
    SELECT o.name, o.sql_name, a.attname, grantee, privilege,
           has_column_privilege(grantee, o.oid, a.attnum, privilege) AS allowed,
           EXISTS (SELECT FROM aclexplode(a.attacl) AS acl
                    WHERE acl.grantee::regrole::text = g.grantee AND acl.privilege_type = privilege) AS present
      FROM objects AS o JOIN pg_attribute AS a ON a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped,
           grantees AS g, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) AS privilege
     WHERE EXISTS (SELECT FROM pg_attribute, aclexplode(attacl) AS acl
                    WHERE attrelid = o.oid AND acl.grantee::regrole::text IN (SELECT grantee FROM grantees))
)
SELECT 'grants' AS kind, format('REVOKE %s ON %s FROM %s', privilege, target, grantee) AS statement, name, command,
       '' AS part
  FROM possible JOIN present USING (oid, grantee, privilege)
UNION ALL
SELECT 'grants', format('GRANT %s ON %s TO %s', privilege, target, grantee), name, command, ''
  FROM possible WHERE NOT allowed
UNION ALL
SELECT 'column grants', format('REVOKE %s (%I) ON %s FROM %s', privilege, attname, sql_name, grantee), name,
       lower(privilege), attname
  FROM column_grants WHERE present
UNION ALL
SELECT 'column grants', format('GRANT %s (%I) ON %s TO %s', privilege, attname, sql_name, grantee), name,
       lower(privilege), attname
  FROM column_grants WHERE NOT allowed
UNION ALL
SELECT 'policies', format(change, polname, sql_name), name,
       CASE polcmd WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update' WHEN 'd' THEN 'delete' ELSE 'select' END, ''
  FROM pg_policy JOIN objects ON objects.oid = polrelid,
       LATERAL (
           VALUES ('DROP POLICY %I ON %s', true),
                  ('ALTER POLICY %I ON %s USING (true)', pg_get_expr(polqual, polrelid) <> 'true'),
                  ('ALTER POLICY %I ON %s WITH CHECK (true)', pg_get_expr(polwithcheck, polrelid) <> 'true')
       ) AS changes (change, weaker)
 WHERE weaker
UNION ALL
SELECT 'row-level security', format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', sql_name), name, 'select', ''
  FROM objects JOIN pg_class USING (oid) WHERE relrowsecurity
UNION ALL
SELECT 'security_invoker', format('ALTER VIEW %s SET (security_invoker = false)', sql_name), name, 'security_invoker', ''
  FROM objects JOIN pg_class USING (oid) WHERE 'security_invoker=true' = ANY (reloptions)
 ORDER BY 1, 2
