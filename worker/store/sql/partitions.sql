-- The partitions of a table, and those that it lost on their way out: a killed process may have left one half detached
-- or not yet dropped. One that an administrator detached to keep it has no such comment, and is none of ours.
SELECT c.relname::text AS name,
       CASE WHEN i.inhrelid IS NULL THEN 'detached' WHEN i.inhdetachpending THEN 'pending' ELSE 'attached' END AS state
  FROM pg_catalog.pg_class c
  LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
   AND c.relname ~ ('^' || %(table)s || '_[0-9]+$')
   AND CASE
           WHEN i.inhrelid IS NULL THEN obj_description(c.oid, 'pg_class') = %(mark)s
           ELSE i.inhparent = to_regclass('public.' || %(table)s)
       END
 ORDER BY c.relname
