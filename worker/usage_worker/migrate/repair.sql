-- What repair and adoption read from the catalogue.

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

-- name: uncommented
-- The relations, indexes and functions of schema public that have no comment, or a column or policy without one.
SELECT c.relname::text
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'i', 'I') AND NOT c.relispartition
    AND (
        obj_description(c.oid, 'pg_class') IS NULL
        OR c.relkind NOT IN ('i', 'I') AND EXISTS (
            SELECT FROM pg_attribute AS a
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL
        )
        OR EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid AND obj_description(p.oid, 'pg_policy') IS NULL)
    )
UNION
SELECT p.proname::text FROM pg_proc AS p
WHERE p.pronamespace = 'public'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
