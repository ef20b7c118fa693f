-- The journal of migrations.

-- name: create_journal
-- The journal, and the marks of the objects that migrations created. A platform may grant new tables to its roles by
-- default privileges; these tables are for the owner only.
DO $journal$
DECLARE
    v_table text;
    v_role text;
BEGIN
    CREATE TABLE IF NOT EXISTS public.usage_migrations (
        number integer PRIMARY KEY,
        name text NOT NULL,
        version text NOT NULL,
        sha256 text NOT NULL,
        state text NOT NULL CHECK (state IN ('applied', 'running', 'failed')),
        started_at timestamptz NOT NULL DEFAULT now(),
        duration_ms integer
    );
    CREATE TABLE IF NOT EXISTS public.usage_migration_objects (
        kind text NOT NULL,
        name text NOT NULL,
        number integer NOT NULL,
        -- A rollback leaves what was there before the migrations.
        adopted boolean NOT NULL DEFAULT false,
        PRIMARY KEY (kind, name)
    );
    FOREACH v_table IN ARRAY ARRAY['public.usage_migrations', 'public.usage_migration_objects'] LOOP
        CONTINUE WHEN (SELECT relrowsecurity FROM pg_class WHERE oid = v_table::regclass);
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', v_table);
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', v_table);
        FOR v_role IN
            SELECT rolname FROM pg_roles
            WHERE rolname IN ('anon', 'authenticated', 'service_role') AND has_table_privilege(oid, v_table, 'SELECT')
        LOOP
            EXECUTE format('REVOKE ALL ON %s FROM %I', v_table, v_role);
        END LOOP;
    END LOOP;
    -- Once: two sessions that comment on the same table at once fail.
    IF obj_description('public.usage_migrations'::regclass, 'pg_class') IS NOT NULL THEN
        RETURN;
    END IF;
    COMMENT ON TABLE public.usage_migrations IS 'The journal of usage-worker migrate, which writes it: a row for each migration.';
    COMMENT ON COLUMN public.usage_migrations.number IS 'Number of the migration.';
    COMMENT ON COLUMN public.usage_migrations.name IS 'Name of the migration.';
    COMMENT ON COLUMN public.usage_migrations.version IS 'The schema version that the migration belongs to.';
    COMMENT ON COLUMN public.usage_migrations.sha256 IS 'Checksum of the file that was executed.';
    COMMENT ON COLUMN public.usage_migrations.state IS 'applied, running or failed.';
    COMMENT ON COLUMN public.usage_migrations.started_at IS 'When the last attempt began.';
    COMMENT ON COLUMN public.usage_migrations.duration_ms IS 'Duration in milliseconds; NULL: not applied.';
    COMMENT ON INDEX public.usage_migrations_pkey IS 'Finds a migration by its number.';
    COMMENT ON TABLE public.usage_migration_objects IS
        'The objects that migrations made; a rollback drops no others; written by usage-worker migrate.';
    COMMENT ON COLUMN public.usage_migration_objects.kind IS 'Kind of the object.';
    COMMENT ON COLUMN public.usage_migration_objects.name IS 'Name of the object; of a function with its arguments.';
    COMMENT ON COLUMN public.usage_migration_objects.number IS 'Number of the migration that made it.';
    COMMENT ON COLUMN public.usage_migration_objects.adopted IS 'Whether the object was there before the migrations; a rollback leaves it.';
    COMMENT ON INDEX public.usage_migration_objects_pkey IS 'Finds an object by its kind and name.';
END
$journal$

-- name: record_migration
-- A migration keeps the time of its start when its state changes afterwards.
INSERT INTO public.usage_migrations AS record (number, name, version, sha256, state, duration_ms)
VALUES ({}, {}, {}, {}, {}, {})
ON CONFLICT (number) DO UPDATE SET
    name = excluded.name,
    version = excluded.version,
    sha256 = excluded.sha256,
    state = excluded.state,
    duration_ms = excluded.duration_ms,
    started_at = CASE excluded.state WHEN 'running' THEN excluded.started_at ELSE record.started_at END

-- name: journal_exists
SELECT to_regclass('public.usage_migrations') IS NOT NULL

-- name: read_journal
SELECT number, name, version, sha256, state, started_at, duration_ms FROM public.usage_migrations ORDER BY number

-- name: remove_migration
DELETE FROM public.usage_migrations WHERE number = {}
