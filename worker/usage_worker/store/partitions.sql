-- Partitions made ahead and dropped after their retention.

-- name: today
-- The day by the database's clock: that of a worker may be wrong, and it would drop what is still needed.
SELECT (now() AT TIME ZONE 'UTC')::date AS today

-- name: partitions
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

-- name: set_lock_timeout
-- Whoever waits for a lock is in others' way: we give up soon, and try again.
SELECT set_config('lock_timeout', %(patience)s, %(in_transaction)s)

-- name: ensure_month
-- The audit trail's partition of a day's month; a look into the catalogue when it is there already.
SELECT public.user_agent_history_ensure_month(%(day)s::date)

-- name: mark_partition
-- Says that what is found detached was to be dropped.
COMMENT ON TABLE public.{partition} IS {mark}

-- name: detach_partition
-- CONCURRENTLY: dropping a partition in one go would lock out every reader and writer of the table.
ALTER TABLE public.{table} DETACH PARTITION public.{partition} CONCURRENTLY

-- name: finish_detaching
-- The second half of a DETACH CONCURRENTLY that was interrupted while it waited for older transactions.
ALTER TABLE public.{table} DETACH PARTITION public.{partition} FINALIZE

-- name: drop_partition
-- Nobody finds it any more.
DROP TABLE IF EXISTS public.{partition}

-- name: delete_old_entries
-- A chunk of the oldest entries. The rows are chosen and locked first, whatever the planner does with the rest, and one
-- that a batch has in its hands is passed over. Begins where the last chunk ended, since what was deleted is in the way.
WITH old AS MATERIALIZED (
    SELECT key, seen_at FROM public.usage_entries
     WHERE seen_at >= %(since)s::timestamptz AND seen_at < %(before)s::date::timestamp AT TIME ZONE 'UTC'
     ORDER BY seen_at LIMIT %(count)s
       FOR UPDATE SKIP LOCKED
), forgotten AS (
    DELETE FROM public.usage_entries WHERE key = ANY (ARRAY(SELECT key FROM old))
)
SELECT count(*) AS entries, max(seen_at) AS reached FROM old
