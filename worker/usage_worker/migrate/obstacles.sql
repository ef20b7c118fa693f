-- Obstacles of a plan: taken names, missing column numbers, refused values.

-- name: obstacle_names
WITH RECURSIVE named AS (
    SELECT n.*, m.number IS NOT NULL AS marked, coalesce(m.adopted AND m.number = n.number, false) AS adopted,
        -- A migration in one transaction that did not commit has created nothing.
        record.number IS NOT NULL AND (record.state = 'applied' OR NOT n.transactional) AS begun,
        record.number IS NOT NULL AND record.state = 'applied' AS applied,
        n.kind IN ('table', 'view', 'index', 'sequence') AS relation
    FROM pg_temp.usage_names AS n
    LEFT JOIN public.usage_migration_objects AS m ON m.kind = n.kind AND m.name = n.object
    LEFT JOIN public.usage_migrations AS record ON record.number = n.number
), relations AS (
    SELECT c.oid, c.relname::text AS name,
        CASE c.relkind
            WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'i' THEN 'index' WHEN 'I' THEN 'index'
            WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' WHEN 'f' THEN 'foreign table' ELSE 'table'
        END || ' ' || c.relname AS label
    FROM pg_class AS c WHERE c.relnamespace = 'public'::regnamespace
), functions AS (
    SELECT p.proname::text AS name, format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)) AS signature
    FROM pg_proc AS p WHERE p.pronamespace = 'public'::regnamespace
)

-- name: unmarked_known_table
SELECT label FROM ({known_table}) AS known (label)
WHERE EXISTS (SELECT FROM named WHERE number = ANY ({plan}) AND kind = 'table' AND object = 'user_agents' AND NOT marked)

-- name: taken_names
SELECT string_agg(DISTINCT label, ', ' ORDER BY label) FROM (
    SELECT r.label FROM named AS n JOIN relations AS r ON r.name = n.object
    WHERE n.number = ANY ({plan}) AND n.relation AND NOT n.marked
    UNION ALL
    -- A table or view brings a type of its name. PostgreSQL renames an array type that has the name.
    SELECT 'type ' || t.typname FROM named AS n JOIN pg_type AS t ON t.typname = n.object
    WHERE n.number = ANY ({plan}) AND n.kind IN ('table', 'view') AND NOT n.marked
        AND t.typnamespace = 'public'::regnamespace AND t.typrelid = 0
        AND NOT EXISTS (SELECT FROM pg_type AS element WHERE element.typarray = t.oid)
    UNION ALL
    -- With any signature, because a call could resolve to either function.
    SELECT 'function ' || f.signature FROM named AS n JOIN functions AS f ON f.name = split_part(n.object, '(', 1)
    WHERE n.number = ANY ({plan}) AND n.kind = 'function' AND NOT n.marked
        AND NOT EXISTS (
            SELECT FROM public.usage_migration_objects AS m WHERE m.kind = 'function' AND m.name = f.signature
        )
    UNION ALL
    -- Our partitions belong to a marked table or are being dropped.
    SELECT r.label FROM named AS n JOIN relations AS r ON r.name ~ ('^' || n.object || '$')
    WHERE n.number = ANY ({plan}) AND n.kind = 'partition'
        AND obj_description(r.oid, 'pg_class') IS DISTINCT FROM 'dropped by usage-worker'
        AND NOT EXISTS (
            SELECT FROM pg_inherits AS i JOIN relations AS parent ON parent.oid = i.inhparent
            JOIN public.usage_migration_objects AS m ON m.kind = 'table' AND m.name = parent.name
            WHERE i.inhrelid = r.oid
        )
    UNION ALL
    -- Additions of others to a table that an earlier migration of ours created.
    SELECT format('%s %s', n.kind, n.object) FROM named AS n
    JOIN public.usage_migration_objects AS m
        ON m.kind = 'table' AND m.name = split_part(n.object, '.', 1) AND m.number < n.number
    WHERE n.number = ANY ({plan}) AND n.kind IN ('column', 'constraint', 'policy', 'trigger')
        AND NOT n.begun AND NOT n.transient AND NOT n.marked
        AND NOT EXISTS (SELECT FROM named AS b WHERE b.begun AND b.kind = n.kind AND b.object = n.object)
        AND (n.kind, n.object) IN (SELECT fact.kind, fact.object FROM (
{catalogue}
        ) AS fact)
) AS found

-- name: unmarked_names
-- The runner leaves out the migrations whose tables are adopted, of which it drops nothing; a script cannot.
SELECT string_agg(DISTINCT label, ', ' ORDER BY label) FROM (
    SELECT r.label FROM named AS n JOIN relations AS r ON r.name = n.object
    WHERE n.number = ANY ({plan}) AND n.begun AND n.relation AND (NOT n.marked OR n.adopted OR (n.transient AND n.applied))
    UNION ALL
    SELECT 'function ' || f.signature FROM named AS n JOIN functions AS f ON f.signature = n.object
    WHERE n.number = ANY ({plan}) AND n.begun AND n.kind = 'function'
        AND (NOT n.marked OR (n.transient AND n.applied))
) AS found

-- name: foreign_dependents
-- What others built on objects that the rollback drops, and PostgreSQL then refuses to drop. A table with rows is renamed
-- instead, or its columns are, and 1.0.0 keeps what others use.
, targets AS (
    SELECT n.kind, n.object, n.number FROM named AS n
    WHERE n.number = ANY ({plan}) AND n.number > 1 AND n.begun AND NOT n.transient AND NOT EXISTS (
        SELECT FROM named AS staying WHERE staying.number <> ALL ({plan}) AND staying.applied AND NOT staying.transient
            AND staying.kind = n.kind AND staying.object = n.object
    )
), renamed AS (
    SELECT t.kind, t.object FROM targets AS t JOIN relations AS r ON r.name = split_part(t.object, '.', 1)
    -- CASE: otherwise PostgreSQL may ask every relation for rows, indexes included.
    WHERE CASE WHEN EXISTS (
            SELECT FROM named AS kept
            WHERE kept.transient AND kept.kind = t.kind AND starts_with(kept.object, t.object || '_kept_')
        )
        THEN pg_temp.usage_query(format('SELECT to_jsonb(EXISTS (SELECT FROM public.%I))', r.name)) = 'true' END
), readers AS (
    SELECT 'pg_class'::regclass AS class, r.oid, 0 AS part FROM targets AS t JOIN relations AS r ON r.name = t.object
    WHERE t.kind IN ('view', 'table') AND (t.kind, t.object) NOT IN (SELECT kind, object FROM renamed)
    UNION
    SELECT 'pg_class'::regclass, a.attrelid, a.attnum::integer FROM targets AS t
    JOIN relations AS r ON r.name = split_part(t.object, '.', 1)
    JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attname = split_part(t.object, '.', 2) AND NOT a.attisdropped
    WHERE t.kind = 'column' AND NOT EXISTS (
        SELECT FROM targets AS made WHERE made.kind = 'table' AND made.object = r.name AND made.number = t.number
    ) AND (t.kind, t.object) NOT IN (SELECT kind, object FROM renamed)
    UNION
    SELECT 'pg_proc'::regclass, p.oid, 0 FROM targets AS t JOIN pg_proc AS p ON p.pronamespace = 'public'::regnamespace
        AND t.object = format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid))
    WHERE t.kind = 'function'
    UNION
    SELECT 'pg_class'::regclass, rule.ev_class, 0 FROM readers AS t
    JOIN pg_depend AS d ON d.refclassid = t.class AND d.refobjid = t.oid AND (t.part = 0 OR d.refobjsubid = t.part)
    JOIN pg_rewrite AS rule ON d.classid = 'pg_rewrite'::regclass AND rule.oid = d.objid AND rule.ev_class <> t.oid
), dependents AS (
    SELECT d.classid, d.objid, coalesce(p.polrelid, t.tgrelid, k.conrelid, f.adrelid) AS owner,
        coalesce(p.polname, t.tgname)::text AS part
    FROM readers AS r
    JOIN pg_depend AS d ON d.refclassid = r.class AND d.refobjid = r.oid AND (r.part = 0 OR d.refobjsubid = r.part)
        AND d.deptype = 'n'
    LEFT JOIN pg_policy AS p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
    LEFT JOIN pg_trigger AS t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid
    LEFT JOIN pg_constraint AS k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
    LEFT JOIN pg_attrdef AS f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
)
SELECT string_agg(DISTINCT label, ', ' ORDER BY label) FROM (
    SELECT pg_describe_object(r.class, r.oid, 0) AS label FROM readers AS r JOIN pg_class AS c ON c.oid = r.oid
    WHERE c.relkind IN ('v', 'm') AND NOT EXISTS (SELECT FROM named WHERE kind = 'view' AND object = c.relname)
    UNION ALL
    SELECT pg_describe_object(d.classid, d.objid, 0) FROM dependents AS d LEFT JOIN pg_class AS c ON c.oid = d.owner
    WHERE (d.owner IS NOT NULL OR d.classid = 'pg_proc'::regclass)
        AND NOT EXISTS (SELECT FROM readers AS r WHERE r.oid = d.owner AND r.part = 0)
        AND NOT EXISTS (
            SELECT FROM named AS ours WHERE CASE
                WHEN d.classid = 'pg_proc'::regclass THEN ours.kind = 'function' AND ours.object = (
                    SELECT format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid))
                    FROM pg_proc AS p WHERE p.oid = d.objid
                )
                WHEN d.classid IN ('pg_policy'::regclass, 'pg_trigger'::regclass)
                THEN ours.kind IN ('policy', 'trigger') AND ours.object = format('%s.%s', c.relname, d.part)
                ELSE ours.kind = 'table' AND ours.object = c.relname
            END
        )
) AS found

-- name: column_numbers
-- A number is never reused: 3.0.0 adds 43 columns and 4.0.0 adds 3, again after each rollback. A table that a rollback
-- kept under another name keeps its numbers.
SELECT string_agg(label, ', ' ORDER BY label) FROM (
    SELECT format(
        'table %s has used %s of 1600 column numbers, dropped columns included, and %s more are needed',
        c.relname, c.relnatts, count(DISTINCT n.object)
    ) AS label
    FROM named AS n JOIN pg_class AS c ON c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
        AND c.relname ~ ('^' || split_part(n.object, '.', 1) || '(_kept_\d+_\d+_\d+)?$')
    WHERE n.number = ANY ({plan}) AND n.kind = 'column' AND NOT n.transient AND NOT EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attname = split_part(n.object, '.', 2) AND NOT a.attisdropped
    )
    GROUP BY c.relname, c.relnatts
    HAVING c.relnatts + count(DISTINCT n.object) > 1600
) AS found

-- name: missing_columns
-- Columns that an applied migration created and somebody dropped; later steps need them.
SELECT string_agg(DISTINCT 'column ' || n.object, ', ') FROM named AS n JOIN relations AS r ON r.name = 'user_agents'
WHERE n.kind = 'column' AND split_part(n.object, '.', 1) = 'user_agents' AND n.applied AND n.definition IS NOT NULL
    AND NOT EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = r.oid AND a.attname = split_part(n.object, '.', 2) AND NOT a.attisdropped
    )

-- name: refused_values
-- Rows that a CHECK of the plan refuses, also in what a rollback kept aside; counted in one pass.
SELECT string_agg(label, ', ' ORDER BY label) FROM (
    SELECT format(
        CASE violation.rows WHEN '1' THEN '%s has %s row that violates %s' ELSE '%s has %s rows that violate %s' END,
        counted.name, violation.rows, violation.definition
    ) AS label
    FROM (
        SELECT r.name, pg_temp.usage_query(format(
            'SELECT jsonb_build_object(%s) FROM public.%I',
            string_agg(format('%L, count(*) FILTER (WHERE NOT %s)', n.definition, substr(n.definition, 7)), ', '), r.name
        ))
        FROM named AS n JOIN relations AS r ON r.name ~ '^user_agents(_kept_[23]_0_0)?$'
        JOIN pg_attribute AS a ON a.attrelid = r.oid AND NOT a.attisdropped
            AND n.object = format('user_agents.user_agents_%s_check', a.attname)
        WHERE n.number = ANY ({plan}) AND n.kind = 'constraint'
        GROUP BY r.name
    ) AS counted (name, violations)
    CROSS JOIN LATERAL jsonb_each_text(counted.violations) AS violation (definition, rows)
    WHERE violation.rows <> '0'
) AS found

-- name: refuse_obstacles
DO $obstacles$
DECLARE
    obstacles text := (
{query}
    );
BEGIN
    IF obstacles IS NOT NULL THEN
        RAISE '%: %', obstacles, {remedy};
    END IF;
END
$obstacles$

-- name: half_restored
-- The step to 3.0.0 restores what a rollback has kept by moving chunks of it. Its rollback would drop the columns of the
-- rows that were moved.
SELECT CASE WHEN 3 = ANY ({plan}) AND to_regclass('public.user_agents_kept_3_0_0') IS NOT NULL
    AND EXISTS (SELECT FROM named WHERE number = 3 AND begun AND NOT applied)
    AND EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = to_regclass('public.user_agents') AND attname = 'custom_name'
            AND NOT attisdropped
    )
    AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'user_agents_keep_3_0_0')
    THEN CASE WHEN pg_temp.usage_query(
            'SELECT to_jsonb(EXISTS (SELECT FROM public.user_agents AS ua
                WHERE NOT EXISTS (SELECT FROM public.user_agents_kept_3_0_0 AS kept WHERE kept.id = ua.id)))'
        ) = 'true' THEN 'an upgrade stopped and may have restored a part of user_agents_kept_3_0_0' END
    END

-- name: expiring_shares
-- The step to 4.0.0 copies kept shares that expire to user_agents, and then makes the triggers, without which its rollback
-- leaves them there.
SELECT CASE WHEN 20 = ANY ({plan}) AND to_regclass('public.user_agent_shares') IS NOT NULL
    AND EXISTS (SELECT FROM named WHERE number = 20 AND begun AND NOT applied)
    AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgname = 'user_agent_shares_deleted')
    THEN CASE WHEN pg_temp.usage_query(
            'SELECT to_jsonb(EXISTS (SELECT FROM public.user_agent_shares AS s
                JOIN public.user_agents AS ua ON ua.id = s.user_agent_id
                WHERE s.expires_at IS NOT NULL AND ua.is_shared
                    AND (s.shared_with_user = ANY (ua.shared_with) OR s.shared_with_team = ua.team_id)))'
        ) = 'true' THEN 'an upgrade stopped and may have copied shares that expire' END
    END
