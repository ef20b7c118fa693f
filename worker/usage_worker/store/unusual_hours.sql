-- Hours of agents that differ from the same hours of the weeks before; docs/anomalies.md has the formulae and sources.
-- `agents` NULL judges the total of all agents, under the nil UUID. Intervals are in hours: days depend on the time zone.

-- name: unusual_hours
-- Hours with an unusual cost, and hours of an unusual silence. The square root makes the spread of a Poisson number the same
-- at any level (Anscombe 1948), so that one scale fits night and day.
WITH hours AS (
    SELECT CASE WHEN %(agents)s::uuid[] IS NULL THEN '00000000-0000-0000-0000-000000000000' ELSE agent_id END AS agent_id,
           hour, sum(usage_count)::float8 AS uses, sum(total_cost_usd)::float8 AS cost, sum(cost_samples)::float8 AS priced
      FROM public.agent_usage_hourly
     WHERE hour >= %(begin)s AND hour < %(stop)s AND (%(agents)s::uuid[] IS NULL OR agent_id = ANY (%(agents)s::uuid[]))
     GROUP BY 1, 2
), series AS (
    -- An hour without a row had no use; before the first row nothing is known.
    SELECT agent_id, first, array_agg(2 * sqrt(coalesce(cost, 0)) ORDER BY hour) AS costs,
           array_agg(2 * sqrt(coalesce(uses, 0)) ORDER BY hour) AS uses
      FROM (SELECT agent_id, min(hour) AS first FROM hours GROUP BY agent_id) AS begun
     CROSS JOIN generate_series(first, %(stop)s::timestamptz - interval '1 hour', interval '1 hour') AS hour
      LEFT JOIN hours USING (agent_id, hour)
     WHERE first <= %(stop)s::timestamptz - interval '672 hours'
     GROUP BY agent_id, first
), residuals AS MATERIALIZED (
    -- Against the same hour of four weeks and, as four are few, its neighbours. What happens in one hour of a week, such as a
    -- scheduled job, is usual in that hour alone: for a cost, the higher median counts, and for a silence the lower one.
    SELECT agent_id, first, first + (i - 1) * interval '1 hour' AS hour, costs[i] AS cost, uses[i] AS uses,
           usual_cost, usual_uses, samples, costs[i] - usual_cost AS cost_residual, uses[i] - usual_uses AS uses_residual
      FROM series
     -- Two weeks suffice for a residual.
     CROSS JOIN generate_series(
               greatest(337, (extract(epoch FROM %(begin)s - first) / 3600)::int + 673), cardinality(costs)
           ) AS i
     CROSS JOIN LATERAL (
               SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY c) AS near_cost,
                      percentile_cont(0.5) WITHIN GROUP (ORDER BY u) AS near_uses, count(*)::int AS samples
                 FROM unnest(costs[i-169:i-167] || costs[i-337:i-335] || costs[i-505:i-503] || costs[i-673:i-671],
                             uses[i-169:i-167] || uses[i-337:i-335] || uses[i-505:i-503] || uses[i-673:i-671]) AS v (c, u)
           ) AS near
     CROSS JOIN LATERAL (
               SELECT greatest(near_cost, percentile_cont(0.5) WITHIN GROUP (ORDER BY c)) AS usual_cost,
                      least(near_uses, percentile_cont(0.5) WITHIN GROUP (ORDER BY u)) AS usual_uses
                 FROM unnest(ARRAY[costs[i-168], costs[i-336], costs[i-504], costs[i-672]],
                             ARRAY[uses[i-168], uses[i-336], uses[i-504], uses[i-672]]) AS v (c, u)
           ) AS same
), days AS (
    SELECT day FROM generate_series(date_trunc('day', %(start)s::timestamptz, 'UTC'),
                                    %(stop)s::timestamptz - interval '1 hour', interval '24 hours') AS day
), centres AS (
    -- Scales change by the UTC day, not by the hour: an hour is then judged the same whenever that happens. The median of
    -- the residuals is the growth since the weeks of comparison.
    SELECT agent_id, day, percentile_cont(0.5) WITHIN GROUP (ORDER BY cost_residual) AS cost_drift,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY uses_residual) AS uses_drift
      FROM residuals JOIN days ON hour >= day - interval '504 hours' AND hour < day
     GROUP BY agent_id, day
), spreads AS (
    -- 1.4826 MAD is the standard deviation of a normal distribution (Rousseeuw and Croux 1993).
    SELECT agent_id, day, cost_drift, uses_drift,
           1.4826 * percentile_cont(0.5) WITHIN GROUP (ORDER BY abs(cost_residual - cost_drift)) AS cost_spread,
           1.4826 * percentile_cont(0.5) WITHIN GROUP (ORDER BY abs(uses_residual - uses_drift)) AS uses_spread
      FROM residuals JOIN centres USING (agent_id) WHERE hour >= day - interval '504 hours' AND hour < day
     GROUP BY agent_id, day, cost_drift, uses_drift
), levels AS (
    -- NULL, so that nothing is judged, where no cost is known or all is free of charge.
    SELECT agent_id, day, nullif(sum(cost), 0) / nullif(sum(priced), 0) AS cost_per_use,
           -- Of all 672 hours, those without a use at 0.
           coalesce((array_agg(cost ORDER BY cost DESC NULLS LAST))[336], 0) AS median_cost
      FROM hours JOIN days ON hour >= day - interval '672 hours' AND hour < day
     GROUP BY agent_id, day
), scales AS (
    -- At least 1, the spread of 2 √n where n is a Poisson number; of a cost, n is the cost in costs of a use.
    SELECT *, greatest(cost_spread / sqrt(cost_per_use), 1) AS cost_scale, greatest(uses_spread, 1) AS uses_scale
      FROM spreads JOIN levels USING (agent_id, day)
), expected AS (
    SELECT *, (greatest(usual_cost + cost_drift, 0) / 2) ^ 2 AS expected_cost,
           (greatest(usual_uses + uses_drift, 0) / 2) ^ 2 AS expected_uses
      FROM residuals JOIN scales USING (agent_id)
     WHERE hour >= %(start)s::timestamptz - interval '168 hours'
       AND day = date_trunc('day', greatest(hour, %(start)s), 'UTC')
), runs AS (
    -- Runs of hours without a use. The chance of none where Λ are expected is exp(-Λ); 2 √Λ is its distance from the usual.
    SELECT *, sum(expected_uses) OVER run AS sum_uses, min(hour) FILTER (WHERE expected_uses >= 0.5) OVER run AS since,
           first_value(uses_scale) OVER (run ORDER BY hour) AS first_scale
      FROM (
          SELECT *, hour - row_number() OVER (PARTITION BY agent_id ORDER BY hour) * interval '1 hour' AS run
            FROM expected
           WHERE uses = 0 AND (%(agents)s::uuid[] IS NULL OR hour <> ALL (%(silent)s::timestamptz[]))
      ) AS unused
    WINDOW run AS (PARTITION BY agent_id, run)
), silences AS (
    -- A run has one scale, that of its beginning, which an anomaly that goes on has kept: by the scale of each day, a silence
    -- would end at midnight and begin anew later.
    SELECT runs.*, coalesce(known.scale, first_scale) AS silence_scale
      FROM runs
      LEFT JOIN public.agent_anomalies AS known
             ON known.kind = 'silence' AND coalesce(known.agent_id, '00000000-0000-0000-0000-000000000000') = runs.agent_id
            AND known.started_at < %(start)s AND known.started_at <= since
            AND (known.ended_at IS NULL OR known.ended_at > since)
)
SELECT agent_id, 'cost' AS kind, hour, hour AS since, cost ^ 2 / 4 AS observed, expected_cost AS expected,
       cost_scale AS scale, (cost - usual_cost - cost_drift) / sqrt(cost_per_use) / cost_scale AS z, samples,
       jsonb_build_object(
           'uses', round(uses ^ 2 / 4), 'usual_usd', round((usual_cost ^ 2 / 4)::numeric, 6),
           'drift', round((cost_drift / sqrt(cost_per_use))::numeric, 3), 'median_usd', round(median_cost::numeric, 6),
           'usd_per_use', round(cost_per_use::numeric, 6)
       ) AS baseline
  FROM expected
 WHERE hour >= %(start)s AND cost - usual_cost - cost_drift > 6 * cost_scale * sqrt(cost_per_use)
   AND cost ^ 2 / 4 - expected_cost >= greatest(median_cost, %(min_usd)s::float8)
UNION ALL
SELECT agent_id, 'silence', hour, since, 0, sum_uses, silence_scale, 2 * sqrt(sum_uses) / silence_scale, samples,
       jsonb_build_object('uses_an_hour', round(expected_uses::numeric, 2), 'drift', round(uses_drift::numeric, 3))
  FROM silences
 -- NULL, which greatest() ignores, where no hour of the run expects half a use.
 WHERE since IS NOT NULL AND hour >= greatest(since, %(start)s) AND 2 * sqrt(sum_uses) > 7 * silence_scale

-- name: unusual_errors
-- Hours with 30 uses or more whose error rate is surely above twice that of the four weeks before the UTC day: the lower
-- bound of Wilson's score interval at 3 standard deviations. A rate below 1 percent counts as 1 percent, since few errors
-- of an agent without any are no event.
WITH hours AS (
    SELECT CASE WHEN %(agents)s::uuid[] IS NULL THEN '00000000-0000-0000-0000-000000000000' ELSE agent_id END AS agent_id,
           hour, sum(usage_count)::float8 AS uses, sum(error_count)::float8 AS errors
      FROM public.agent_usage_hourly
     WHERE hour >= %(begin)s AND hour < %(stop)s AND (%(agents)s::uuid[] IS NULL OR agent_id = ANY (%(agents)s::uuid[]))
     GROUP BY 1, 2
), days AS (
    SELECT day FROM generate_series(date_trunc('day', %(start)s::timestamptz, 'UTC'),
                                    %(stop)s::timestamptz - interval '1 hour', interval '24 hours') AS day
), rates AS (
    SELECT agent_id, day, sum(uses) AS usual_uses, sum(errors) AS usual_errors,
           greatest(sum(errors) / sum(uses), 0.01) AS rate
      FROM hours JOIN days ON hour >= day - interval '672 hours' AND hour < day
     GROUP BY agent_id, day
    HAVING sum(uses) > 0
), compared AS (
    SELECT agent_id, hour, uses, errors, usual_uses, usual_errors, errors / uses AS observed,
           usual_errors / usual_uses AS expected, rate, sqrt(rate * (1 - rate) / uses) AS scale
      FROM hours JOIN rates USING (agent_id)
     WHERE hour >= %(start)s AND day = date_trunc('day', hour, 'UTC') AND uses >= 30 AND errors >= 5
), bounded AS (
    -- Wilson 1927, with 3 for the quantile: (p + z²/2n - z √(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    SELECT *, (observed + 4.5 / uses - 3 * sqrt(observed * (1 - observed) / uses + 2.25 / uses ^ 2)) / (1 + 9 / uses) AS lower
      FROM compared
)
SELECT agent_id, 'errors' AS kind, hour, hour AS since, observed, expected, scale, (observed - rate) / scale AS z,
       uses::int AS samples,
       jsonb_build_object(
           'errors', errors, 'usual_uses', usual_uses, 'usual_errors', usual_errors, 'lower_bound', round(lower::numeric, 4)
       ) AS baseline
  FROM bounded
 WHERE lower > 2 * rate

-- name: slow_hours
-- Hours with 20 response times or more whose 95th percentile is twice that of the same hours of the week, and their
-- neighbours, of four weeks. Histograms are merged: percentiles cannot be averaged. How many responses are slower than the
-- usual percentile says whether this can be chance: 5 percent usually, and surely more than 10.
WITH hours AS (
    SELECT hour FROM generate_series(%(start)s::timestamptz, %(stop)s::timestamptz - interval '1 hour', interval '1 hour') AS hour
), compared AS MATERIALIZED (
    SELECT hour, hour - week * interval '168 hours' + beside * interval '1 hour' AS earlier
      FROM hours, generate_series(1, 4) AS week, generate_series(-1, 1) AS beside
), buckets AS MATERIALIZED (
    -- A function in FROM would store each histogram: twice the time.
    SELECT agent_id, hour, bucket, sum(number)::float8 AS number
      FROM (SELECT CASE WHEN %(agents)s::uuid[] IS NULL THEN '00000000-0000-0000-0000-000000000000' ELSE agent_id END AS agent_id,
                   hour, unnest(latency_buckets) AS bucket, unnest(latency_counts) AS number
              FROM public.agent_usage_hourly
             WHERE (%(agents)s::uuid[] IS NULL OR agent_id = ANY (%(agents)s::uuid[]))
               AND hour = ANY (ARRAY(SELECT hour FROM hours UNION SELECT earlier FROM compared))) AS histograms
     GROUP BY agent_id, hour, bucket
), judged AS MATERIALIZED (
    SELECT agent_id, hour FROM buckets WHERE hour >= %(start)s GROUP BY agent_id, hour HAVING sum(number) >= 20
), usual AS MATERIALIZED (
    SELECT agent_id, judged.hour, bucket, sum(number) AS number
      FROM judged JOIN compared USING (hour) JOIN buckets USING (agent_id)
     WHERE buckets.hour = earlier
     GROUP BY 1, 2, 3
), merged AS (
    SELECT agent_id, hour, false AS is_own, bucket, number FROM usual
     UNION ALL
    SELECT agent_id, hour, true, bucket, number FROM buckets
), ranked AS (
    SELECT *, sum(number) OVER (PARTITION BY agent_id, hour, is_own ORDER BY bucket) AS upto,
           sum(number) OVER (PARTITION BY agent_id, hour, is_own) AS total
      FROM merged
     WHERE (agent_id, hour) IN (SELECT agent_id, hour FROM judged)
), percentiles AS (
    SELECT agent_id, hour, is_own, total, min(bucket) AS bucket
      FROM ranked WHERE upto >= ceil(0.95 * total)
     GROUP BY agent_id, hour, is_own, total
), slower AS (
    SELECT own.agent_id, own.hour, own.total AS uses, usual.total AS usual_uses, own.bucket AS own_bucket,
           usual.bucket AS usual_bucket
      FROM percentiles AS own JOIN percentiles AS usual USING (agent_id, hour)
     -- Below 100 samples, fewer than five are above the usual percentile.
     WHERE own.is_own AND NOT usual.is_own AND usual.total >= 100
       AND public.usage_latency_value(own.bucket) >= 2 * public.usage_latency_value(usual.bucket)
), shares AS (
    SELECT slower.*, sum(number) / uses AS slow
      FROM slower JOIN buckets USING (agent_id, hour)
     WHERE bucket > usual_bucket
     GROUP BY agent_id, hour, uses, usual_uses, own_bucket, usual_bucket
), bounded AS (
    -- As for errors.
    SELECT *, (slow + 4.5 / uses - 3 * sqrt(slow * (1 - slow) / uses + 2.25 / uses ^ 2)) / (1 + 9 / uses) AS lower,
           sqrt(0.05 * 0.95 / uses) AS scale
      FROM shares
)
SELECT agent_id, 'latency' AS kind, hour, hour AS since, public.usage_latency_value(own_bucket)::float8 AS observed,
       public.usage_latency_value(usual_bucket)::float8 AS expected, scale, (slow - 0.05) / scale AS z, uses::int AS samples,
       jsonb_build_object(
           'slow_share', round(slow::numeric, 4), 'lower_bound', round(lower::numeric, 4), 'usual_uses', usual_uses
       ) AS baseline
  FROM bounded
 WHERE lower > 0.1
