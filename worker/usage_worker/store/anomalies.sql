-- Anomalies: what is judged next, and what was found.
-- Intervals are in hours: days depend on the time zone.

-- name: anomaly_span
-- The hours to judge, from `start` to before `stop`: those since the last run, but at least 24, since late events may have
-- changed them, and at most a week. A new hour is judged when it is over and neither it nor one of those that it is
-- compared with waits to be rolled up. Marks of hours that were judged before, and rolled up, do not matter: where late
-- events never cease, nothing would be judged. From `begin` on are all hours that a judgement needs: 3 weeks of residuals,
-- each with 4 weeks before it.
WITH last AS (
    SELECT (SELECT (report ->> 'judged_until')::timestamptz FROM public.usage_task_runs WHERE task = %(task)s) AS stop,
           date_trunc('hour', now(), 'UTC') AS present
), marks AS (
    SELECT DISTINCT hour FROM public.agent_usage_hour_marks
), span AS (
    SELECT last.stop AS last, greatest(last.stop, least(present, (
               SELECT min(hour) FROM marks
                WHERE hour >= present - interval '1536 hours'
                  AND (hour >= coalesce(last.stop, present - interval '2 hours')
                       OR NOT EXISTS (SELECT FROM public.agent_usage_hourly AS known WHERE known.hour = marks.hour))
           ))) AS stop
      FROM last
), judged AS (
    SELECT greatest(least(stop - interval '24 hours', last), stop - interval '168 hours') AS start, stop FROM span
)
SELECT date_trunc('day', start, 'UTC') - interval '1176 hours' AS begin, start, stop FROM judged

-- name: anomaly_settings
-- Compiling the statements takes longer than executing them; a plan for any span and any agents takes them for few.
SET LOCAL jit = off;
SET LOCAL plan_cache_mode = force_custom_plan

-- name: anomaly_agents
-- The agents with uses since `begin`, and whether they are among the first `alerts` by cost of the last four weeks.
SELECT agent_id, min(hour) AS first_hour,
       row_number() OVER (
           ORDER BY sum(total_cost_usd) FILTER (WHERE hour >= %(stop)s::timestamptz - interval '672 hours') DESC NULLS LAST,
                    sum(usage_count) FILTER (WHERE hour >= %(stop)s::timestamptz - interval '672 hours') DESC NULLS LAST, agent_id
       ) <= %(alerts)s AS is_alert
  FROM public.agent_usage_hourly
 WHERE hour >= %(begin)s AND hour < %(stop)s
 GROUP BY agent_id
 ORDER BY agent_id

-- name: hours_without_uses
-- The hours of the last days in which nobody used anything: they are silences of the total, not of each agent.
SELECT hour
  FROM generate_series(%(start)s::timestamptz - interval '168 hours', %(stop)s::timestamptz - interval '1 hour',
                       interval '1 hour') AS hour
 WHERE NOT EXISTS (SELECT FROM public.agent_usage_hourly AS known WHERE known.hour = hour.hour)

-- name: continued_anomalies
-- The anomalies that began before the hours to judge and had not ended before them.
SELECT agent_id, kind, started_at AS since, %(start)s::timestamptz - interval '1 hour' AS hour, observed::float8 AS observed,
       expected::float8 AS expected, scale, z, samples, baseline
  FROM public.agent_anomalies
 WHERE started_at < %(start)s AND (ended_at IS NULL OR ended_at >= %(start)s)

-- name: withdraw_anomalies
-- What the hours to judge had, and no longer have, since late events came. Before the others: only one may be open.
DELETE FROM public.agent_anomalies AS a
 WHERE started_at >= %(start)s AND started_at < %(stop)s
   AND NOT EXISTS (
           SELECT FROM jsonb_to_recordset(%(anomalies)s::jsonb) AS f (agent_id uuid, kind text, started_at timestamptz)
            WHERE f.agent_id IS NOT DISTINCT FROM a.agent_id AND f.kind = a.kind AND f.started_at = a.started_at
       )

-- name: keep_anomalies
-- In the order of time: what has ended is closed before the next one opens. Whether it alerts was decided when it began.
INSERT INTO public.agent_anomalies AS a
       (agent_id, kind, started_at, ended_at, observed, expected, scale, z, samples, baseline, is_alert)
SELECT agent_id, kind, started_at, ended_at, observed, expected, scale, z, samples, baseline, is_alert
  FROM jsonb_to_recordset(%(anomalies)s::jsonb) AS f (
           agent_id uuid, kind text, started_at timestamptz, ended_at timestamptz, observed numeric, expected numeric,
           scale float8, z float8, samples integer, baseline jsonb, is_alert boolean
       )
 ORDER BY started_at
    ON CONFLICT (agent_id, kind, started_at) DO UPDATE SET
       ended_at = excluded.ended_at, observed = excluded.observed, expected = excluded.expected, scale = excluded.scale,
       z = excluded.z, samples = excluded.samples, baseline = excluded.baseline
 WHERE (a.ended_at, a.observed, a.expected, a.scale, a.z, a.samples, a.baseline) IS DISTINCT FROM
       (excluded.ended_at, excluded.observed, excluded.expected, excluded.scale, excluded.z, excluded.samples, excluded.baseline)

-- name: delete_old_anomalies
-- Those whose hours are dropped, too.
DELETE FROM public.agent_anomalies WHERE ended_at < now() - %(days)s::int * interval '24 hours'

-- name: may_read_anomalies
-- Whether this role may read the anomalies and sees them: with only the right to read, as of pg_read_all_data, all rows are hidden.
SELECT has_table_privilege('public.agent_anomalies', 'SELECT')
       AND (NOT row_security_active('public.agent_anomalies') OR pg_has_role('service_role', 'USAGE')) AS may_read

-- name: anomalies
-- The anomalies of the last days, newest first, with the names of the agents; `alerts` are those that status names.
SELECT a.agent_id, g.name AS agent, kind, started_at, ended_at, observed::float8 AS observed,
       expected::float8 AS expected, scale, z, samples, baseline, is_alert
  FROM public.agent_anomalies AS a LEFT JOIN public.agents AS g ON g.id = a.agent_id
 WHERE (ended_at IS NULL OR ended_at >= now() - %(days)s::int * interval '24 hours')
   AND (%(agent_id)s::uuid IS NULL OR a.agent_id = %(agent_id)s)
   AND (NOT %(open)s::boolean OR ended_at IS NULL)
   AND (NOT %(alerts)s::boolean OR is_alert)
 ORDER BY started_at DESC, a.agent_id NULLS FIRST, kind
