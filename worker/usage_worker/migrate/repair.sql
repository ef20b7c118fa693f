-- What repair and adoption read of the catalogue.

-- name: dependent_views
-- The views that read a view, directly or through others, and the view itself; those that nothing reads come first.
WITH RECURSIVE dependent (oid, depth) AS (
    SELECT to_regclass(format('public.%%I', %s::text))::oid, 0
    UNION
    SELECT rule.ev_class, dependent.depth + 1
    FROM dependent
    JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = dependent.oid
        AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite AS rule ON rule.oid = d.objid AND rule.ev_class <> dependent.oid
)
SELECT c.relname, c.relkind = 'm' FROM dependent JOIN pg_class AS c ON c.oid = dependent.oid
WHERE c.relnamespace = 'public'::regnamespace
GROUP BY c.relname, c.relkind ORDER BY max(dependent.depth) DESC
