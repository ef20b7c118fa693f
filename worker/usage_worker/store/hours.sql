-- The hourly roll-up of the ledger, and the days that are kept for longer.

-- name: marked_days
-- The days that have marks, the newest first: people look at those.
SELECT DISTINCT (hour AT TIME ZONE 'UTC')::date AS day FROM public.agent_usage_hour_marks ORDER BY day DESC

-- name: hours_limits
-- One core: a roll-up is not urgent, and ingest needs the others. With PostgreSQL's default of 4 MB, a day of a million
-- events is sorted on disk. The planner underestimates groups: a nested loop over the 45,000 of a day ran for minutes.
SET LOCAL enable_nestloop = off;
SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL work_mem = '64MB'

-- name: take_marks
-- Before the roll-up, and in a statement of its own, so that the roll-up sees at least the events whose marks are taken here. A
-- batch that commits later keeps its marks.
DELETE FROM public.agent_usage_hour_marks
 WHERE hour >= %(day)s::date::timestamp AT TIME ZONE 'UTC' AND hour < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC'
RETURNING hour

-- name: ensure_hours_month
-- Create the hourly roll-up's partition of a day's month; only reads the catalogue when it exists.
SELECT public.agent_usage_hourly_ensure_month(%(day)s::date)

-- name: delete_hours
-- Rows of the hours that are about to be rolled up.
DELETE FROM public.agent_usage_hourly WHERE hour = ANY (%(hours)s::timestamptz[])

-- name: is_final_day
-- Whether a day is rolled up as a whole: nothing wrote to its partition after that.
SELECT EXISTS (SELECT FROM public.agent_usage_daily WHERE day = %(day)s::date) AS is_final

-- name: missing_columns
-- What the ledger has and a partition has not: an upgrade does not reach one that is already detached.
SELECT attname, format_type(atttypid, atttypmod)
  FROM pg_catalog.pg_attribute
 WHERE attrelid = 'public.usage_events'::regclass AND attnum > 0 AND NOT attisdropped
   AND attname NOT IN (SELECT attname FROM pg_catalog.pg_attribute
                        WHERE attrelid = to_regclass('public.' || quote_ident(%(partition)s))
                          AND attnum > 0 AND NOT attisdropped)

-- name: add_column
ALTER TABLE public.{partition} ADD COLUMN {column} {type}

-- name: roll_up
-- Compute the rows of hours or of a day from the ledger's partition of the day; its name, and not the ledger's, since a
-- partition that is being dropped is detached already. Sums and histograms have a grouping each: sums of each bucket, summed again,
-- took half as long again. The session's time zone is UTC, so that a period becomes its day.
INSERT INTO public.{rollup} (
    {period}, agent_id, model, provider, usage_count, message_count, success_count, error_count, input_tokens,
    output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, total_tokens_used, total_cost_usd,
    cost_samples, response_time_total_ms, response_time_samples, latency_buckets, latency_counts, users
)
WITH uses AS (
    SELECT date_bin(%(width)s::interval, occurred_at, 'epoch'::timestamptz) AS period, agent_id,
           coalesce(model, '') AS model, coalesce(provider, '') AS provider, user_id, success, messages, input_tokens,
           output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, tokens, cost_usd, response_time_ms
      FROM public.{partition}
     WHERE type = 'usage'
       AND (%(hours)s::timestamptz[] IS NULL
            OR date_bin('1 hour', occurred_at, 'epoch'::timestamptz) = ANY (%(hours)s::timestamptz[]))
), totals AS (
    SELECT period, agent_id, model, provider, count(*), sum(messages), count(*) FILTER (WHERE success),
           count(*) FILTER (WHERE NOT success), sum(input_tokens), sum(output_tokens), coalesce(sum(cached_input_tokens), 0),
           coalesce(sum(cache_write_tokens), 0), coalesce(sum(reasoning_tokens), 0), sum(tokens), sum(cost_usd), count(cost_usd),
           coalesce(sum(response_time_ms), 0), count(response_time_ms)
      FROM uses
     GROUP BY period, agent_id, model, provider
), histograms AS (
    SELECT period, agent_id, model, provider, array_agg(bucket ORDER BY bucket) AS buckets,
           array_agg(uses ORDER BY bucket) AS counts
      FROM (SELECT period, agent_id, model, provider, public.usage_latency_bucket(response_time_ms) AS bucket,
                   count(*)::integer AS uses
              FROM uses
             WHERE response_time_ms IS NOT NULL
             GROUP BY period, agent_id, model, provider, bucket) AS counted
     GROUP BY period, agent_id, model, provider
), people AS (
    SELECT period, agent_id, model, provider, count(*) AS users
      FROM (SELECT DISTINCT period, agent_id, model, provider, user_id FROM uses) AS seen
     GROUP BY period, agent_id, model, provider
)
SELECT totals.*, coalesce(buckets, '{{}}'), coalesce(counts, '{{}}'), users
  FROM totals JOIN people USING (period, agent_id, model, provider)
  LEFT JOIN histograms USING (period, agent_id, model, provider)

-- name: mark_hours
-- The hours of events that are written in the same transaction. Without a key, so that batches never wait for one another.
INSERT INTO public.agent_usage_hour_marks (hour) SELECT unnest(%(hours)s::timestamptz[])

-- name: mark_found_hours
-- Precedes the query that finds the hours.
INSERT INTO public.agent_usage_hour_marks (hour)

-- name: different_hours
-- The hours of a day whose uses differ from those of the ledger, without a mark that says so: a worker of a version before
-- 5.0.0 makes none. One statement, so that what is counted meanwhile makes no difference.
SELECT hour
  FROM (
    SELECT date_bin('1 hour', occurred_at, 'epoch'::timestamptz) AS hour, count(*) AS uses
      FROM public.usage_events
     WHERE type = 'usage' AND occurred_at >= %(day)s::date::timestamp AT TIME ZONE 'UTC'
       AND occurred_at < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC'
     GROUP BY 1
  ) AS ledger
  FULL JOIN (
    SELECT hour, sum(usage_count) AS uses
      FROM public.agent_usage_hourly
     WHERE hour >= %(day)s::date::timestamp AT TIME ZONE 'UTC'
       AND hour < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC'
     GROUP BY hour
  ) AS hourly USING (hour)
 WHERE ledger.uses IS DISTINCT FROM hourly.uses
   AND NOT EXISTS (SELECT FROM public.agent_usage_hour_marks AS m WHERE m.hour = coalesce(ledger.hour, hourly.hour))
