-- Drops only what the way up created, which its comments tell.

DO $tables$
DECLARE
    ours text;
BEGIN
    FOREACH ours IN ARRAY ARRAY['public.agents', 'public.user_profiles'] LOOP
        IF obj_description(to_regclass(ours), 'pg_class') = 'created by usage-worker' THEN
            EXECUTE format('DROP TABLE %s', ours);
        END IF;
    END LOOP;
END
$tables$;

DO $auth$
BEGIN
    IF EXISTS (
        SELECT FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = 'auth' AND p.proname = 'uid'
            AND obj_description(p.oid, 'pg_proc') = 'created by usage-worker'
    ) THEN
        DROP FUNCTION auth.uid();
    END IF;

    IF EXISTS (
        SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = 'auth' AND c.relname = 'users'
            AND obj_description(c.oid, 'pg_class') = 'created by usage-worker'
    ) THEN
        DROP TABLE auth.users;
    END IF;

    IF EXISTS (
        SELECT FROM pg_catalog.pg_namespace
        WHERE nspname = 'auth' AND obj_description(oid, 'pg_namespace') = 'created by usage-worker'
    ) THEN
        DROP SCHEMA auth;
    END IF;
END
$auth$;

-- A role stays where another database of the cluster still uses it, or is dropping it at this moment.
DO $roles$
DECLARE
    ours text;
BEGIN
    FOR ours IN
        SELECT rolname FROM pg_catalog.pg_roles
        WHERE rolname IN ('anon', 'authenticated', 'service_role')
            AND shobj_description(oid, 'pg_authid') = 'created by usage-worker'
    LOOP
        BEGIN
            EXECUTE format('DROP ROLE %I', ours);
        EXCEPTION WHEN
            dependent_objects_still_exist OR object_in_use OR undefined_object OR insufficient_privilege
            OR lock_not_available OR internal_error
        THEN
            NULL;
        END;
    END LOOP;
END
$roles$;
