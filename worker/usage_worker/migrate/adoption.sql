-- Marks of a database that the runner did not make.

-- name: adopt_names
-- Mark the objects that a migration would have created. If it is `keeping`, its tables that exist, and their columns and
-- constraints, are marked as adopted, and a rollback leaves them.
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
-- The migrations of which a rollback drops no table and no column.
SELECT DISTINCT number FROM public.usage_migration_objects WHERE adopted

-- name: release_adopted
-- After a rollback of an adopted migration. Columns keep their marks while their table has one: the next upgrade finds
-- them, and the next rollback leaves them again.
DELETE FROM public.usage_migration_objects AS mark
WHERE mark.number = {number} AND NOT (mark.adopted AND mark.kind IN ('column', 'constraint'))
    OR mark.adopted AND split_part(mark.name, '.', 1) IN (
        SELECT owner.name FROM public.usage_migration_objects AS owner
        WHERE owner.kind = 'table' AND owner.adopted AND owner.number = {number}
    )
