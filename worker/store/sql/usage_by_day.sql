-- The last days of a time zone, from single events, since the daily roll-up knows UTC days only; today comes last. What
-- was deleted since is in it, too: the ledger tells what happened.
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
