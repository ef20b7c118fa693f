-- What makes a database ours that was not migrated by the runner.

-- name: adopt_names
-- Marks what a migration would have made. Tables of `keeping` migrations, and their columns and constraints, are marked as
-- adopted where they exist: a rollback leaves them.
INSERT INTO public.usage_migration_objects (kind, name, number, adopted)
SELECT kind, name, number, {keeping} AND (kind IN ('column', 'constraint') OR kind = 'table' AND NOT {free})
FROM (SELECT n.kind, n.object AS name, n.number, n.transient FROM pg_temp.usage_names AS n) AS named
WHERE number = {number} AND (
    kind IN ('table', 'view', 'index', 'sequence', 'function') AND (NOT transient OR {free})
    OR {keeping} AND kind IN ('column', 'constraint') AND NOT transient
        AND to_regclass(format('public.%I', split_part(name, '.', 1))) IS NOT NULL
)
ON CONFLICT DO NOTHING

-- name: adopted_migrations
SELECT DISTINCT number FROM public.usage_migration_objects WHERE adopted

-- name: release_adopted
-- Columns keep their marks as long as their table is marked: an upgrade finds them, and the next rollback leaves them, too.
DELETE FROM public.usage_migration_objects AS mark
WHERE mark.number = {number} AND NOT (mark.adopted AND mark.kind IN ('column', 'constraint'))
    OR mark.adopted AND split_part(mark.name, '.', 1) IN (
        SELECT owner.name FROM public.usage_migration_objects AS owner
        WHERE owner.kind = 'table' AND owner.adopted AND owner.number = {number}
    )
