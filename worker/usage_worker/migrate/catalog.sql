-- The objects of schema public as comparable text: kind, object, the relation or function it belongs to, definition.
-- Of partitions only the open ones: others are part of their table. Runs with search_path pg_catalog, so that every name
-- is qualified.
WITH RECURSIVE relations AS (
    SELECT c.oid, c.relname::text AS name, c.relkind, c.relpersistence, c.relreplident, c.relrowsecurity, c.relforcerowsecurity,
        c.reloptions, c.relacl, c.relowner,
        coalesce((
            SELECT string_agg(', ' || option, '' ORDER BY option) FROM unnest(c.reloptions) AS option
            WHERE option ~ '^(fillfactor|autovacuum_\w+)='
        ), '') AS settings
    FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
        AND c.relname NOT IN ('usage_migrations', 'usage_migration_objects')
), partitions AS (
    SELECT i.inhrelid AS oid, r.name AS belongs_to
    FROM relations AS r JOIN pg_inherits AS i ON i.inhparent = r.oid WHERE r.relkind = 'p'
    UNION ALL
    SELECT i.inhrelid, p.belongs_to FROM partitions AS p JOIN pg_inherits AS i ON i.inhparent = p.oid
), routines AS (
    SELECT p.*, format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)) AS name
    FROM pg_proc AS p
    WHERE p.pronamespace = 'public'::regnamespace
        AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
), grants AS (
    SELECT format('table %s', name) AS object, name AS belongs_to, acl.grantee, acl.privilege_type
    FROM relations, aclexplode(coalesce(relacl, acldefault('r', relowner))) AS acl
    WHERE acl.grantee <> relowner
    UNION ALL
    SELECT format('column %s.%s', r.name, a.attname), r.name, acl.grantee, acl.privilege_type
    FROM relations AS r JOIN pg_attribute AS a ON a.attrelid = r.oid, aclexplode(a.attacl) AS acl
    WHERE acl.grantee <> r.relowner
    UNION ALL
    SELECT format('function %s', name), proname, acl.grantee, acl.privilege_type
    FROM routines, aclexplode(coalesce(proacl, acldefault('f', proowner))) AS acl
    WHERE acl.grantee <> proowner
    UNION ALL
    -- Of the journal only the rights to it, which a migration grants.
    SELECT 'table usage_migrations', 'usage_migrations', acl.grantee, acl.privilege_type
    FROM pg_class AS c, aclexplode(c.relacl) AS acl
    WHERE c.oid = to_regclass('public.usage_migrations') AND acl.grantee <> c.relowner
)
SELECT 'table' AS kind, name AS object, name AS belongs_to,
    CASE relkind WHEN 'r' THEN 'table' ELSE 'partitioned table' END
    || CASE WHEN relrowsecurity THEN ', row-level security on' ELSE ', row-level security off' END
    || CASE WHEN relforcerowsecurity THEN ', forced' ELSE '' END
    || CASE relpersistence WHEN 'u' THEN ', unlogged' ELSE '' END
    || settings AS definition
FROM relations WHERE relkind IN ('r', 'p')

UNION ALL
-- A platform may give any of our tables one, so none is unexpected.
SELECT 'replica identity', name, NULL, 'full' FROM relations WHERE relreplident = 'f'

UNION ALL
-- Open: a partition inherits neither row-level security nor revoked grants. Also in another schema than public.
SELECT 'partition', c.oid::regclass::text, p.belongs_to,
    CASE WHEN c.relrowsecurity THEN 'row-level security on' ELSE 'row-level security off' END
    || coalesce(', granted to ' || granted.roles, '')
FROM partitions AS p JOIN pg_class AS c ON c.oid = p.oid CROSS JOIN LATERAL (
    SELECT string_agg(DISTINCT coalesce(role.rolname, 'public'), ', ') AS roles
    FROM (SELECT c.relacl UNION ALL SELECT a.attacl FROM pg_attribute AS a WHERE a.attrelid = c.oid) AS lists (list),
        aclexplode(list) AS acl LEFT JOIN pg_roles AS role ON role.oid = acl.grantee
    WHERE acl.grantee <> c.relowner
        AND (acl.grantee = 0 OR role.rolname IN ('anon', 'authenticated', 'service_role', 'usage_ingest'))
) AS granted
WHERE NOT c.relrowsecurity OR granted.roles IS NOT NULL

UNION ALL
SELECT 'rule', format('%s.%s', r.name, rule.rulename), r.name, pg_get_ruledef(rule.oid)
FROM relations AS r JOIN pg_rewrite AS rule ON rule.ev_class = r.oid AND rule.rulename <> '_RETURN'

UNION ALL
-- PostgreSQL 16 renders fewer table qualifiers than 15: they are removed before the text is hashed.
SELECT 'view', name, name,
    CASE relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END
    || CASE WHEN 'security_invoker=true' = ANY (reloptions) THEN ', security_invoker' ELSE '' END
    || CASE WHEN 'security_barrier=true' = ANY (reloptions) THEN ', security_barrier' ELSE '' END
    || settings || ', query ' || md5(regexp_replace(pg_get_viewdef(oid), '\m[a-z_]+\.|\s', '', 'g'))
FROM relations WHERE relkind IN ('v', 'm')

UNION ALL
-- A column that a rollback kept under another name belongs to no table of the older version.
SELECT 'column', format('%s.%s', r.name, a.attname), CASE WHEN a.attname ~ '_kept_\d+_\d+_\d+$' THEN a.attname ELSE r.name END,
    format_type(a.atttypid, a.atttypmod)
    || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
    || coalesce(
        CASE a.attgenerated WHEN '' THEN ' default ' ELSE ' generated ' END || pg_get_expr(d.adbin, d.adrelid), ''
    )
FROM relations AS r
JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef AS d ON d.adrelid = r.oid AND d.adnum = a.attnum
WHERE r.relkind IN ('r', 'p')

UNION ALL
SELECT 'index', i.relname, r.name,
    CASE WHEN x.indisvalid THEN '' ELSE 'invalid ' END || pg_get_indexdef(i.oid)
FROM relations AS r JOIN pg_index AS x ON x.indrelid = r.oid JOIN pg_class AS i ON i.oid = x.indexrelid
-- Those of pgvector, which a periodic task makes where the extension is.
WHERE i.relname !~ '^agent_embeddings_hnsw_'

UNION ALL
SELECT 'sequence', c.relname, r.name, format_type(s.seqtypid, NULL)
FROM relations AS r JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid
JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
JOIN pg_sequence AS s ON s.seqrelid = c.oid

UNION ALL
-- PostgreSQL 18 lists NOT NULL here as well; it is part of the column above. A foreign key is checked by triggers of both
-- tables, which DISABLE TRIGGER ALL switches off.
SELECT 'constraint', format('%s.%s', r.name, k.conname), r.name,
    CASE WHEN EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgconstraint = k.oid AND t.tgenabled NOT IN ('O', 'A'))
        THEN 'disabled ' ELSE '' END || pg_get_constraintdef(k.oid)
FROM relations AS r JOIN pg_constraint AS k ON k.conrelid = r.oid AND k.contype NOT IN ('n', 't')

UNION ALL
SELECT 'policy', format('%s.%s', r.relname, p.polname), r.relname,
    CASE WHEN p.polpermissive THEN '' ELSE 'restrictive ' END
    || CASE p.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update' WHEN 'd' THEN 'delete' ELSE 'all' END
    || ' to ' || (
        SELECT string_agg(CASE WHEN role = 0 THEN 'public' ELSE role::regrole::text END, ', ' ORDER BY role::regrole::text)
        FROM unnest(p.polroles) AS role
    )
    || coalesce(' using ' || regexp_replace(pg_get_expr(p.polqual, p.polrelid), '\s+', ' ', 'g'), '')
    || coalesce(' check ' || regexp_replace(pg_get_expr(p.polwithcheck, p.polrelid), '\s+', ' ', 'g'), '')
FROM pg_policy AS p JOIN pg_class AS r ON r.oid = p.polrelid AND r.relnamespace = 'public'::regnamespace

UNION ALL
SELECT 'trigger', format('%s.%s', r.name, t.tgname), r.name,
    CASE t.tgenabled WHEN 'O' THEN '' ELSE 'disabled ' END || regexp_replace(pg_get_triggerdef(t.oid), '\s+', ' ', 'g')
FROM relations AS r JOIN pg_trigger AS t ON t.tgrelid = r.oid AND NOT t.tgisinternal

UNION ALL
-- prosrc is empty where the body was bound at creation.
SELECT 'function', p.name, p.proname,
    format('returns %s, %s, %s, security %s%s, body %s',
        pg_get_function_result(p.oid), l.lanname,
        CASE p.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' ELSE 'volatile' END,
        CASE WHEN p.prosecdef THEN 'definer' ELSE 'invoker' END,
        coalesce(', ' || array_to_string(p.proconfig, ', '), ''),
        md5(coalesce(pg_get_function_sqlbody(p.oid), p.prosrc)))
FROM routines AS p JOIN pg_language AS l ON l.oid = p.prolang

UNION ALL
SELECT 'grant', format('%s to %s', object, coalesce(role.rolname, 'public')), belongs_to,
    string_agg(DISTINCT lower(privilege_type), ', ' ORDER BY lower(privilege_type))
FROM grants LEFT JOIN pg_roles AS role ON role.oid = grants.grantee
WHERE grants.grantee = 0 OR role.rolname IN ('anon', 'authenticated', 'service_role', 'usage_ingest')
GROUP BY object, belongs_to, role.rolname

UNION ALL
SELECT 'schema', format('create on public to %s', coalesce(role.rolname, 'public')), NULL, 'granted'
FROM pg_namespace AS n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS acl
LEFT JOIN pg_roles AS role ON role.oid = acl.grantee
WHERE n.nspname = 'public' AND acl.privilege_type = 'CREATE' AND acl.grantee <> n.nspowner
    AND (acl.grantee = 0 OR role.rolname IN ('anon', 'authenticated', 'service_role', 'usage_ingest'))

UNION ALL
-- Objects that a platform may provide: only what the migrations need.
SELECT 'auth', 'schema', NULL, 'exists' FROM pg_namespace WHERE nspname = 'auth'

UNION ALL
SELECT 'auth', format('users.%s', a.attname), NULL, format_type(a.atttypid, a.atttypmod)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = 'auth'
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relname = 'users'

UNION ALL
SELECT 'auth', format('%s()', p.proname), NULL, format('returns %s', pg_get_function_result(p.oid))
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace AND n.nspname = 'auth'
WHERE p.pronargs = 0

UNION ALL
SELECT 'role', rolname, NULL,
    -- What a role must not have besides its grants: usage_ingest, anything; anon and authenticated, what opens others' rows.
    'exists' || CASE WHEN rolname <> 'service_role' THEN
        CASE WHEN rolsuper OR rolbypassrls THEN ', bypasses row-level security' ELSE '' END
        || coalesce((
            SELECT string_agg(', member of ' || other.oid::regrole, '' ORDER BY other.oid::regrole::text)
            FROM pg_roles AS other
            WHERE CASE
                WHEN pg_roles.rolname = 'usage_ingest'
                    THEN EXISTS (SELECT FROM pg_auth_members WHERE member = pg_roles.oid AND roleid = other.oid)
                WHEN other.rolname IN ('service_role', 'usage_ingest')
                    OR other.oid IN (SELECT relowner FROM relations WHERE name = 'user_agents')
                    THEN NOT pg_roles.rolsuper AND pg_has_role(pg_roles.oid, other.oid, 'MEMBER')
            END
        ), '')
    ELSE '' END
FROM pg_roles
WHERE rolname IN ('anon', 'authenticated', 'service_role', 'usage_ingest')

ORDER BY 1, 2
