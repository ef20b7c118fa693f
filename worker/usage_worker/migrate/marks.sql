-- Names that migrations take, and the marks of the objects that they created.

-- name: create_names
-- The names of every migration of the files, for this session, and a function with which a check can read columns that
-- need not exist yet.
CREATE FUNCTION pg_temp.usage_query(statement text) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    result jsonb;
BEGIN
    EXECUTE statement INTO result;
    RETURN result;
EXCEPTION WHEN undefined_function OR datatype_mismatch OR invalid_text_representation THEN
    -- A column has another type, which is an obstacle of its own.
    RETURN '{{}}';
END $$;
CREATE TEMPORARY TABLE usage_names AS
{}

-- name: names_of_migration
SELECT {number} AS number, {transactional} AS transactional, kind, object, definition, definition IS NULL AS transient
FROM (
{expected}
) AS expected (kind, object, definition)

-- name: is_free
-- True if no object has the name; the name of a function includes its arguments.
CASE named.kind
    WHEN 'function' THEN NOT EXISTS (
        SELECT FROM pg_proc AS p WHERE p.pronamespace = 'public'::regnamespace
            AND named.name = format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid))
    )
    WHEN 'auth' THEN named.name <> ALL (ARRAY(
        SELECT 'schema' FROM pg_namespace WHERE nspname = 'auth'
        UNION ALL
        SELECT 'users.id' FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = 'auth' AND c.relname = 'users'
        UNION ALL
        SELECT 'uid()' FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = 'auth' AND p.proname = 'uid'
    ))
    ELSE to_regclass(format('public.%I', named.name)) IS NULL
END

-- name: reserve_names
-- Mark the free names of a migration before it runs, so that a later rollback drops only what was created by it.
INSERT INTO public.usage_migration_objects (kind, name, number)
SELECT kind, name, number
FROM (SELECT kind, object AS name, number FROM pg_temp.usage_names) AS named
WHERE number = {number} AND kind IN ('table', 'view', 'index', 'sequence', 'function', 'auth') AND {free}
ON CONFLICT DO NOTHING

-- name: release_names
-- After a rollback; objects that it kept keep their marks.
DELETE FROM public.usage_migration_objects AS named WHERE number = {number} AND {free}

-- name: drop_empty_marks
-- A complete rollback leaves no table of marks.
DO $last$
BEGIN
    IF NOT EXISTS (SELECT FROM public.usage_migrations) AND NOT EXISTS (SELECT FROM public.usage_migration_objects) THEN
        DROP TABLE public.usage_migration_objects;
    END IF;
END
$last$

-- name: kept_tables
-- Tables whose rows a rollback keeps, and whether only their new columns are kept because the table itself stays.
SELECT made.object, min(made.number) <> ALL (%(plan)s)
FROM pg_temp.usage_names AS n
JOIN pg_temp.usage_names AS made
    ON made.kind = 'table' AND made.object = split_part(split_part(n.object, '_kept_', 1), '.', 1)
JOIN public.usage_migrations AS record ON record.number = n.number
WHERE n.number = ANY (%(plan)s) AND n.kind IN ('table', 'column') AND n.object LIKE '%%\_kept\_%%'
    AND to_regclass('public.' || made.object) IS NOT NULL
GROUP BY made.object ORDER BY made.object

-- name: count_rows
-- For the question that a rollback asks before it starts.
SELECT count(*) FROM public.{}
