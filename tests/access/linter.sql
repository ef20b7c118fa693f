-- The rules of the platform's public linter (supabase/splinter), in our own words; each query returns the names of what
-- breaks its rule, partitions included.

-- name: unindexed_foreign_keys
-- Deleting the referenced row reads the whole table where no index begins with the columns of the key.
SELECT format('%s.%s', c.relname, k.conname)
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid AND c.relnamespace = 'public'::regnamespace
 WHERE k.contype = 'f' AND NOT EXISTS (
    SELECT FROM pg_index x
     WHERE x.indrelid = k.conrelid AND x.indisvalid AND x.indpred IS NULL
       AND (string_to_array(x.indkey::text, ' ')::int2[])[1:cardinality(k.conkey)] @> k.conkey)

-- name: auth_rls_initplan
-- auth.uid() outside a scalar subquery is called for each row.
SELECT format('%s.%s', p.tablename, p.policyname)
  FROM pg_policies p
 WHERE p.schemaname = 'public'
   AND regexp_replace(concat(p.qual, ' ', p.with_check), 'SELECT auth\.\w+\(\)', '', 'g') ~ 'auth\.\w+\(\)'

-- name: no_primary_key
SELECT c.relname
  FROM pg_class c
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
   AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisprimary)

-- name: no_replica_identity
-- Our own rule: once a publication has such a table, PostgreSQL refuses every UPDATE and DELETE of it.
SELECT c.relname
  FROM pg_class c
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relpersistence = 'p' AND c.relreplident <> 'f'
   AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid
                      AND CASE c.relreplident WHEN 'd' THEN x.indisprimary ELSE x.indisreplident END)

-- name: multiple_permissive_policies
-- Each of them is evaluated. A role with BYPASSRLS, such as service_role, evaluates none.
SELECT format('%s: %s by %s', c.relname, command, role.rolname)
  FROM pg_policy p
  JOIN pg_class c ON c.oid = p.polrelid AND c.relnamespace = 'public'::regnamespace
  JOIN pg_roles role ON role.rolname IN ('anon', 'authenticated') AND (p.polroles = '{0}' OR role.oid = ANY (p.polroles))
 CROSS JOIN LATERAL unnest(CASE p.polcmd
        WHEN 'r' THEN '{select}' WHEN 'a' THEN '{insert}' WHEN 'w' THEN '{update}' WHEN 'd' THEN '{delete}'
        ELSE '{select,insert,update,delete}' END::text[]) AS command
 WHERE p.polpermissive
 GROUP BY 1 HAVING count(*) > 1

-- name: row_level_security
-- A table of an exposed schema without it, or without a policy where an application's role has a privilege.
SELECT c.relname
  FROM pg_class c
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
   AND (NOT c.relrowsecurity
        OR (NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid)
            AND EXISTS (SELECT FROM pg_roles role WHERE role.rolname IN ('anon', 'authenticated', 'service_role')
                           AND has_any_column_privilege(role.oid, c.oid, 'SELECT, INSERT, UPDATE'))))

-- name: rls_policy_always_true
-- Writing without a condition; reading without one is a decision.
SELECT format('%s.%s', p.tablename, p.policyname)
  FROM pg_policies p
 WHERE p.schemaname = 'public' AND p.cmd <> 'SELECT' AND p.roles && '{public,anon,authenticated}'::name[]
   AND 'true' IN (p.qual, p.with_check)

-- name: duplicate_index
SELECT string_agg(i.relname, ' = ' ORDER BY i.relname)
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid AND i.relnamespace = 'public'::regnamespace
 GROUP BY x.indrelid, x.indkey::text, x.indclass::text, x.indoption::text, i.relam,
          pg_get_expr(x.indexprs, x.indrelid), pg_get_expr(x.indpred, x.indrelid)
HAVING count(*) > 1

-- name: invalid_index
SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE NOT x.indisvalid

-- name: security_definer_view
-- A view that reads with its owner's rights passes row-level security by.
SELECT c.relname
  FROM pg_class c
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'v'
   AND NOT coalesce('security_invoker=true' = ANY (c.reloptions), false)
   AND EXISTS (SELECT FROM pg_roles role WHERE role.rolname IN ('anon', 'authenticated')
                  AND has_any_column_privilege(role.oid, c.oid, 'SELECT'))

-- name: materialized_view_in_api
-- A materialized view has no row-level security.
SELECT c.relname
  FROM pg_class c JOIN pg_roles role ON role.rolname IN ('anon', 'authenticated')
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'm' AND has_any_column_privilege(role.oid, c.oid, 'SELECT')

-- name: function_search_path_mutable
-- The caller's search_path decides what the names of the body mean.
SELECT p.proname
  FROM pg_proc p
 WHERE p.pronamespace IN ('public'::regnamespace, 'auth'::regnamespace)
   AND NOT coalesce(array_to_string(p.proconfig, ' ') LIKE '%search_path=%', false)

-- name: security_definer_function_executable
-- A function that users may call and that has other rights than theirs.
SELECT p.proname
  FROM pg_proc p
 WHERE p.pronamespace = 'public'::regnamespace AND p.prosecdef
   AND (has_function_privilege('anon', p.oid, 'EXECUTE') OR has_function_privilege('authenticated', p.oid, 'EXECUTE'))

-- name: extension_in_public
SELECT extname FROM pg_extension WHERE extnamespace = 'public'::regnamespace

-- name: auth_users_exposed
-- A view that anybody may read and that reads auth.users.
SELECT DISTINCT c.relname
  FROM pg_depend d
  JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
  JOIN pg_class c ON c.oid = r.ev_class AND c.relnamespace = 'public'::regnamespace
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = 'auth.users'::regclass

-- name: autovacuum_disabled
SELECT relname FROM pg_class
 WHERE relnamespace = 'public'::regnamespace AND array_to_string(reloptions, ' ') ~ 'autovacuum_enabled=(false|off|no|0)'
