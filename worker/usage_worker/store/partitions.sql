-- Partitions, created ahead and dropped after their retention, and old stream entries and keys.

-- name: partitions
-- The partitions of a table, and those that are being dropped: a killed process may have left one half detached or not
-- yet dropped. A partition that an administrator detaches does not have the comment, and is not dropped; while that lasts,
-- it is 'leaving'.
SELECT c.relname::text AS name,
       CASE WHEN i.inhrelid IS NULL THEN 'detached' WHEN NOT i.inhdetachpending THEN 'attached'
            WHEN obj_description(c.oid, 'pg_class') = %(mark)s THEN 'pending' ELSE 'leaving' END AS state
  FROM pg_catalog.pg_class c
  LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
   AND c.relname ~ ('^' || %(table)s || '_[0-9]+$')
   AND CASE
           WHEN i.inhrelid IS NULL THEN obj_description(c.oid, 'pg_class') = %(mark)s
           ELSE i.inhparent = to_regclass('public.' || %(table)s)
       END
 ORDER BY c.relname

-- name: keep_task_lock
-- For the transaction that holds the lock of a task while another session works: an administrator's limit would end it.
SET LOCAL idle_in_transaction_session_timeout = 0

-- name: ensure_month
-- Create the audit trail's partition of a day's month; only reads the catalogue when it exists.
SELECT public.user_agent_history_ensure_month(%(day)s::date)

-- name: mark_partition
-- Mark the partition as being dropped.
COMMENT ON TABLE public.{partition} IS {mark}

-- name: marked_partitions
-- The partitions of a table that are attached although they have the mark: their drop failed, or was killed before it began.
SELECT c.relname::text AS name
  FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = to_regclass('public.' || %(table)s) AND NOT i.inhdetachpending
   AND c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
   AND obj_description(c.oid, 'pg_class') = %(mark)s

-- name: unmark_partition
-- So that it stays if the administrator detaches it.
COMMENT ON TABLE public.{partition} IS NULL

-- name: detach_partition
-- CONCURRENTLY: dropping an attached partition would block every reader and writer of the table.
ALTER TABLE public.{table} DETACH PARTITION public.{partition} CONCURRENTLY

-- name: detach_partition_at_once
-- Where a pooler allows no statement outside a transaction.
ALTER TABLE public.{table} DETACH PARTITION public.{partition}

-- name: finish_detaching
-- The second half of a DETACH CONCURRENTLY that was interrupted while it waited for older transactions.
ALTER TABLE public.{table} DETACH PARTITION public.{partition} FINALIZE

-- name: drop_partition
-- The partition is detached, so no statement on the table reads it.
DROP TABLE IF EXISTS public.{partition}

-- name: delete_old_entries
-- Delete a chunk of the oldest entries. The rows are chosen and locked first, whatever the plan of the rest; those that
-- a batch has locked are skipped. Begins where the last chunk ended, since dead index entries before it slow the scan.
WITH old AS MATERIALIZED (
    SELECT key, seen_at FROM public.usage_entries
     WHERE seen_at >= %(since)s::timestamptz AND seen_at < %(before)s::date::timestamp AT TIME ZONE 'UTC'
     ORDER BY seen_at LIMIT %(count)s
       FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM public.usage_entries WHERE key = ANY (ARRAY(SELECT key FROM old))
)
SELECT count(*) AS rows, max(seen_at) AS reached FROM old

-- name: delete_old_keys
-- Delete a chunk of the oldest keys of events that came without a time, like delete_old_entries.
WITH old AS MATERIALIZED (
    SELECT key, occurred_at FROM public.usage_event_keys
     WHERE occurred_at >= %(since)s::timestamptz AND occurred_at < %(before)s::date::timestamp AT TIME ZONE 'UTC'
     ORDER BY occurred_at LIMIT %(count)s
       FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM public.usage_event_keys WHERE key = ANY (ARRAY(SELECT key FROM old))
)
SELECT count(*) AS rows, max(occurred_at) AS reached FROM old
