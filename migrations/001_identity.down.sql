-- Drops only marked objects. Tables with rows and objects that something else depends on stay; they keep their marks, and
-- the next upgrade uses them.

DO $down$
DECLARE
    ours record;
    filled boolean;
BEGIN
    -- There are no marks if psql ran the files without the runner.
    IF to_regclass('public.usage_migration_objects') IS NULL THEN
        RETURN;
    END IF;
    FOR ours IN
        SELECT wanted.*
        FROM (
            VALUES
            (1, 'table', 'agents', 'TABLE', 'public.agents'),
            (2, 'table', 'user_profiles', 'TABLE', 'public.user_profiles'),
            (3, 'function', 'usage_set_updated_at()', 'FUNCTION', 'public.usage_set_updated_at()'),
            (4, 'auth', 'uid()', 'FUNCTION', 'auth.uid()'),
            (5, 'auth', 'users.id', 'TABLE', 'auth.users'),
            (6, 'auth', 'schema', 'SCHEMA', 'auth')
        ) AS wanted (place, kind, name, what, drops)
        JOIN public.usage_migration_objects AS m ON m.kind = wanted.kind AND m.name = wanted.name
        ORDER BY wanted.place
    LOOP
        IF ours.what = 'TABLE' AND to_regclass(ours.drops) IS NOT NULL THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM %s)', ours.drops) INTO filled;
            CONTINUE WHEN filled;
        END IF;
        BEGIN
            EXECUTE format('DROP %s IF EXISTS %s', ours.what, ours.drops);
        EXCEPTION WHEN dependent_objects_still_exist THEN
            NULL;
        END;
    END LOOP;
END
$down$;

-- A role stays if another database of the cluster uses it or is dropping it at this moment.
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
