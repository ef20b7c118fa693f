-- What a database and its role need before the migrations of a plan can run; needs no table of ours.

-- name: encoding
SELECT format('the database''s encoding is %s, which cannot hold every text', current_setting('server_encoding'))
WHERE current_setting('server_encoding') <> 'UTF8'

-- name: server_version
SELECT format('PostgreSQL is %s', current_setting('server_version'))
WHERE current_setting('server_version_num')::integer < 150000

-- name: rights
SELECT string_agg(format('role %s may not %s', current_user, missing), ', ') FROM (
    SELECT 'create in schema public' AS missing
    WHERE NOT has_schema_privilege('public', 'CREATE')
    UNION ALL
    SELECT 'create temporary tables'
    WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
    UNION ALL
    SELECT 'create schema auth, which is missing'
    WHERE 1 = ANY ({plan}) AND to_regnamespace('auth') IS NULL
        AND NOT has_database_privilege(current_database(), 'CREATE')
    UNION ALL
    SELECT format('create %s in schema auth, which is missing', object)
    FROM (VALUES ('table users', NOT EXISTS (
            SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE n.nspname = 'auth' AND c.relname = 'users'
        )),
        ('function uid', NOT EXISTS (
            SELECT FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
            WHERE n.nspname = 'auth' AND p.proname = 'uid'
        ))) AS needed (object, missing)
    JOIN pg_namespace AS n ON n.nspname = 'auth'
    WHERE 1 = ANY ({plan}) AND needed.missing AND NOT has_schema_privilege(n.oid, 'CREATE')
    UNION ALL
    SELECT format('create role %s, which is missing', wanted.name)
    FROM (VALUES (1, 'anon'), (1, 'authenticated'), (1, 'service_role'), (22, 'usage_ingest')) AS wanted (number, name)
    WHERE wanted.number = ANY ({plan}) AND to_regrole(wanted.name) IS NULL
        AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolcreaterole))
    UNION ALL
    SELECT 'use schema auth'
    FROM pg_namespace AS n WHERE n.nspname = 'auth' AND NOT has_schema_privilege(n.oid, 'USAGE')
    UNION ALL
    -- For a foreign key.
    SELECT format('refer to table %s', parent)
    FROM unnest(ARRAY['auth.users', 'public.agents']) AS parent
    JOIN pg_namespace AS n ON n.nspname = split_part(parent, '.', 1)
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = split_part(parent, '.', 2)
    WHERE 2 = ANY ({plan}) AND NOT has_table_privilege(c.oid, 'REFERENCES')
    UNION ALL
    -- A user or an agent that ingest does not see would count as missing. Other conditions than true may hide some.
    -- usage_find_parents asks the same.
    SELECT format(
        'see every row of %1$s (CREATE POLICY usage_worker ON %1$s FOR SELECT TO %2$I USING (true); where a restrictive policy'
        ' applies to this role, ALTER ROLE %2$I BYPASSRLS)', parent, current_user)
    FROM unnest(ARRAY['auth.users', 'public.agents']) AS parent
    JOIN pg_namespace AS n ON n.nspname = split_part(parent, '.', 1)
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = split_part(parent, '.', 2)
    WHERE ARRAY[22, 39] && {plan} AND row_security_active(c.oid)
        AND (
            SELECT bool_or(p.polpermissive AND shows.everything) AND bool_and(p.polpermissive OR shows.everything)
            FROM pg_policy AS p
            CROSS JOIN LATERAL (
                SELECT coalesce(pg_get_expr(p.polqual, p.polrelid) = 'true', NOT p.polpermissive) AS everything
            ) AS shows
            WHERE p.polrelid = c.oid AND p.polcmd IN ('r', '*')
                AND EXISTS (SELECT FROM unnest(p.polroles) AS role WHERE role = 0 OR pg_has_role(role, 'USAGE'))
        ) IS NOT TRUE
    UNION ALL
    -- Only an owner alters a table, and adds triggers and policies.
    SELECT format('alter table %s of role %s', c.relname, c.relowner::regrole)
    FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND NOT pg_has_role(c.relowner, 'USAGE')
        AND (c.relname = 'usage_migrations' OR c.relname = 'user_agents' AND 1 < ANY ({plan}))
) AS found

-- name: known_table
-- A table that the history's SQL or our files made.
SELECT 'table user_agents' FROM pg_attribute
WHERE attrelid = to_regclass('public.user_agents') AND NOT attisdropped
    AND attname IN ('id', 'user_id', 'agent_id', 'usage_count', 'last_used_at', 'metadata')
HAVING count(*) = 6

-- name: parents
-- Tables of the platform are used as they are: for foreign keys, the views and the policies.
SELECT string_agg(problem, ', ' ORDER BY problem) FROM (
    SELECT format(
        'column %s.%s.%s is %s', n.nspname, c.relname, needed.column_name,
        CASE
            WHEN a.attname IS NULL THEN 'missing'
            ELSE format('%s instead of %s', format_type(a.atttypid, a.atttypmod), needed.type)
        END
    ) AS problem
    FROM (VALUES
        (2, 'auth', 'users', 'id', 'uuid'),
        (2, 'public', 'agents', 'id', 'uuid'),
        (5, 'public', 'agents', 'name', NULL),
        (5, 'public', 'user_role_assignments', 'user_id', 'uuid'),
        (5, 'public', 'user_role_assignments', 'team_id', 'uuid')
    ) AS needed (number, schema_name, table_name, column_name, type)
    JOIN pg_namespace AS n ON n.nspname = needed.schema_name
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = needed.table_name
    LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = needed.column_name AND a.attnum > 0
        AND NOT a.attisdropped
    WHERE needed.number = ANY ({plan})
        AND (a.attname IS NULL OR needed.type <> format_type(a.atttypid, a.atttypmod))
    UNION ALL
    -- usage_create_parents() names an agent by a text. PostgreSQL assigns that to every type of strings.
    SELECT format('column public.agents.name is %s instead of text', format_type(a.atttypid, a.atttypmod))
    FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE 22 = ANY ({plan}) AND a.attrelid = to_regclass('public.agents') AND a.attname = 'name' AND t.typcategory <> 'S'
        AND NOT EXISTS (
            SELECT FROM pg_cast WHERE castsource = 'text'::regtype AND casttarget = t.oid AND castcontext <> 'e'
        )
    UNION ALL
    -- Policies read it with the rights of the user who asks: without this one, nobody could read any row of user_agents.
    -- Where the role does not exist yet, 001 makes it, and it may read what PUBLIC may.
    SELECT format(
        'role authenticated may not read %1$s of %2$s (%3$sGRANT SELECT (%1$s) ON public.%2$I TO authenticated)',
        string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum), c.relname,
        CASE WHEN to_regrole('authenticated') IS NULL THEN 'CREATE ROLE authenticated NOLOGIN; ' ELSE '' END
    )
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
    WHERE 5 = ANY ({plan}) AND c.oid = to_regclass('public.user_role_assignments') AND a.attname IN ('user_id', 'team_id')
        AND NOT coalesce(
            has_column_privilege(to_regrole('authenticated')::oid, c.oid, a.attnum, 'SELECT'),
            has_column_privilege('public', c.oid, a.attnum, 'SELECT')
        )
    GROUP BY c.relname
    UNION ALL
    SELECT format('table %s.%s has no primary key or unique constraint on id', n.nspname, c.relname)
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'id' AND NOT a.attisdropped
    WHERE 2 = ANY ({plan}) AND (n.nspname, c.relname) IN (('auth', 'users'), ('public', 'agents'))
        AND NOT EXISTS (
            SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL
                AND i.indisvalid AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum
        )
) AS found
