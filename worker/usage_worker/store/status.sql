-- Queries of status, report and metrics.

-- name: intake_totals
-- accepted = applied + duplicate + quarantined.
SELECT coalesce(sum(accepted), 0)::bigint AS accepted, coalesce(sum(applied), 0)::bigint AS applied,
       coalesce(sum(duplicate), 0)::bigint AS duplicate, coalesce(sum(quarantined), 0)::bigint AS quarantined
  FROM public.usage_intake

-- name: last_commits
-- Seconds since a batch of each stream was last committed. By the database's clock, which wrote the times.
SELECT stream, extract(epoch FROM clock_timestamp() - max(booked_at))::float8 AS seconds
  FROM public.usage_intake
 GROUP BY stream

-- name: commonest_reason
-- The commonest reason among the newest dead letters that are not replayed. Dead letters are never pruned and a reason
-- may be long, so only the newest ones and the beginnings of their reasons are read.
SELECT left(reason, 500) AS reason, sum(events)::bigint AS events, sum(sum(events)) OVER ()::bigint AS total
  FROM (
      SELECT reason, events, replayed_at FROM public.usage_dead_letters ORDER BY id DESC LIMIT %(newest)s
  ) AS newest
 WHERE replayed_at IS NULL
 GROUP BY 1
 ORDER BY 2 DESC, 1
 LIMIT 1

-- name: usage_by_day
-- The last days of a time zone, today last. From single events, since the roll-up has UTC days only; usage of pairs
-- that were deleted since is included.
WITH totals AS (
    SELECT (occurred_at AT TIME ZONE %(zone)s::text)::date AS day, count(*) AS usage_count,
           sum(messages) AS message_count, sum(tokens) AS total_tokens_used, sum(cost_usd) AS total_cost_usd,
           round(100 * avg(success::int), 2) AS success_rate_percent,
           round(avg(response_time_ms))::integer AS avg_response_time_ms
      FROM public.usage_events
     WHERE type = 'usage'
       AND occurred_at >= ((now() AT TIME ZONE %(zone)s::text)::date - %(days)s::integer + 1)::timestamp
                          AT TIME ZONE %(zone)s::text
       AND (%(user_id)s::uuid IS NULL OR user_id = %(user_id)s::uuid)
     GROUP BY 1
)
SELECT d.day, coalesce(usage_count, 0) AS usage_count, coalesce(message_count, 0)::bigint AS message_count,
       coalesce(total_tokens_used, 0)::bigint AS total_tokens_used,
       coalesce(total_cost_usd, 0)::numeric(20, 10) AS total_cost_usd, success_rate_percent, avg_response_time_ms
  FROM generate_series(0, %(days)s::integer - 1) AS back
 CROSS JOIN LATERAL (SELECT (now() AT TIME ZONE %(zone)s::text)::date - back AS day) AS d
  LEFT JOIN totals ON totals.day = d.day
 ORDER BY d.day
