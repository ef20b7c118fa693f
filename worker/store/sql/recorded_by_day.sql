-- On which days the events of a day were recorded that came through the stream. A call of track_agent_usage, which is
-- in no book, happens when it is recorded.
SELECT (recorded_at AT TIME ZONE 'UTC')::date AS day, count(*) AS events
  FROM public.usage_events
 WHERE occurred_at >= %(day)s::timestamp AT TIME ZONE 'UTC'
   AND occurred_at < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC' AND occurred_at <> recorded_at
 GROUP BY 1
