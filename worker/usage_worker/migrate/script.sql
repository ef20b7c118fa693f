-- Statements of the psql script.

-- name: try_lock_or_stop
DO $lock$
BEGIN
    IF NOT pg_try_advisory_lock({key}) THEN
        RAISE 'another migration of this database is running; try again when it has ended';
    END IF;
END
$lock$

-- name: check_start
-- Unfinished migrations of this plan may be run again; everything else must match the start version.
DO $check$
BEGIN
    IF ARRAY(
        SELECT format('%s %s %s', number, state, sha256) FROM public.usage_migrations
        WHERE state = 'applied' OR number <> ALL (ARRAY[{plan}]::integer[])
        ORDER BY number
    ) <> ARRAY[{installed}]::text[] THEN
        RAISE 'the database is not what this script starts from, which is {start}; see usage-worker migrate status';
    END IF;
END
$check$
