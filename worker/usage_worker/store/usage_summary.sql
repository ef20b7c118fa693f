-- Totals of any period, for `usage-worker report`.

-- name: usage_summary
-- The totals of whole days of a time zone, by each of the groupings; '' is all in one. One statement, so that all are of the
-- same moment.
SELECT grouping, s.*
  FROM unnest(%(groupings)s::text[]) AS grouping,
       LATERAL public.usage_summary(
           %(first)s::date::timestamp AT TIME ZONE %(zone)s::text,
           (%(last)s::date + 1)::timestamp AT TIME ZONE %(zone)s::text,
           %(zone)s::text,
           array_remove(ARRAY[grouping], ''),
           p_user_id => %(user_id)s::uuid
       ) AS s

-- name: local_day
-- The day by the database's clock: by a worker's that is wrong, partitions would be dropped too early.
SELECT (now() AT TIME ZONE %(zone)s::text)::date AS day
