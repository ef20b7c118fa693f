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
