-- From an event's time to the commit that made it visible; needs track_commit_timestamp, which embedded servers have.
SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY delay) AS p50, percentile_cont(0.99) WITHIN GROUP (ORDER BY delay) AS p99
  FROM (SELECT 1000 * extract(epoch FROM pg_xact_commit_timestamp(xmin) - occurred_at)::float8 AS delay
          FROM public.usage_events) AS delays
