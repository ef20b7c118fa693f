-- version: 5.2.0
-- lock_timeout: 100ms
--
-- usage_summary does not read the totals of pairs for each day that the ledger has dropped, and knows its partitions by
-- their names.

-- Plans are made for each call: with the range known, the planner leaves out partitions and uses the index of an agent. It
-- expects few rows of a range of the ledger and would sort them all, on disk: 21 s for 1.5 million events, with hashing 9 s. Before 18,
-- PostgreSQL takes a plan with any sort for so expensive then that it compiles it, which lasts seconds.
CREATE OR REPLACE FUNCTION public.usage_summary(
    p_from timestamptz,
    p_to timestamptz,
    p_time_zone text DEFAULT 'UTC',
    p_group_by text[] DEFAULT '{day}',
    p_agent_id uuid DEFAULT NULL,
    p_user_id uuid DEFAULT NULL
) RETURNS TABLE (
    period timestamp,
    agent_id uuid,
    user_id uuid,
    model text,
    provider text,
    usage_count bigint,
    message_count bigint,
    success_count bigint,
    error_count bigint,
    input_tokens numeric,
    output_tokens numeric,
    cached_input_tokens numeric,
    cache_write_tokens numeric,
    reasoning_tokens numeric,
    total_tokens_used numeric,
    total_cost_usd numeric,
    cost_samples bigint,
    response_time_samples bigint,
    avg_response_time_ms integer,
    p50_ms double precision,
    p95_ms double precision,
    p99_ms double precision,
    users bigint
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
  SET plan_cache_mode = force_custom_plan SET enable_sort = off SET jit = off SET work_mem = '64MB' AS $$
#variable_conflict use_column
DECLARE
    c_instant CONSTANT pg_catalog.interval := '1 microsecond';
    v_unit pg_catalog.text;
    v_by_agent CONSTANT pg_catalog.bool := 'agent' = ANY (p_group_by);
    v_by_user CONSTANT pg_catalog.bool := 'user' = ANY (p_group_by);
    v_by_model CONSTANT pg_catalog.bool := 'model' = ANY (p_group_by);
    v_by_provider CONSTANT pg_catalog.bool := 'provider' = ANY (p_group_by);
    -- The roll-ups of agents have no users.
    v_of_users CONSTANT pg_catalog.bool := v_by_user OR p_user_id IS NOT NULL;
    v_ledger_days pg_catalog.date[];
    v_hour_months pg_catalog.date[];
    v_first pg_catalog.date;
    v_end pg_catalog.timestamptz;
    -- What is read from where, and the period of each hour and day.
    v_hours pg_catalog.timestamptz[];
    v_hour_periods pg_catalog.timestamp[];
    v_days pg_catalog.date[];
    v_day_periods pg_catalog.timestamp[];
    v_ledger pg_catalog.tstzmultirange;
    -- Likewise for the users.
    v_user_days pg_catalog.date[];
    v_user_day_periods pg_catalog.timestamp[];
    v_user_ledger pg_catalog.tstzmultirange;
    -- Days that the ledger has dropped, and those of which a part is asked for that only the ledger could know.
    v_dropped_days pg_catalog.date[];
    v_split_days pg_catalog.date[];
    v_doubtful_days pg_catalog.date[];
    v_last_unknown pg_catalog.timestamp;
BEGIN
    IF p_from IS NULL OR p_to IS NULL OR p_time_zone IS NULL OR p_group_by IS NULL THEN
        RAISE null_value_not_allowed USING
            MESSAGE = 'usage_summary: p_from, p_to, p_time_zone and p_group_by must not be NULL';
    END IF;
    IF NOT isfinite(p_from) OR NOT isfinite(p_to) OR p_from > p_to THEN
        RAISE invalid_parameter_value USING
            MESSAGE = 'usage_summary: p_from and p_to must be finite, and p_from not later than p_to';
    END IF;
    IF EXISTS (
        SELECT FROM unnest(p_group_by) AS g (name)
         WHERE name IS NULL OR name NOT IN ('hour', 'day', 'week', 'month', 'agent', 'user', 'model', 'provider')
    ) OR 1 < (SELECT count(DISTINCT name) FROM unnest(p_group_by) AS g (name) WHERE name IN ('hour', 'day', 'week', 'month'))
    THEN
        RAISE invalid_parameter_value USING MESSAGE = 'usage_summary: p_group_by names at most one of hour, day, week and'
            ' month, and any of agent, user, model and provider';
    END IF;
    v_unit := (SELECT min(name) FROM unnest(p_group_by) AS g (name) WHERE name IN ('hour', 'day', 'week', 'month'));
    -- Fails where there is no such time zone.
    PERFORM now() AT TIME ZONE p_time_zone;

    -- A partition of another name, such as an archive or a default one, is not a day or month.
    v_ledger_days := ARRAY(
        SELECT to_date(right(c.relname, 8), 'YYYYMMDD') FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'public.usage_events'::regclass AND NOT i.inhdetachpending
           AND c.relname ~ '^usage_events_[0-9]{8}$'
         ORDER BY 1
    );
    v_hour_months := ARRAY(
        SELECT to_date(right(c.relname, 6), 'YYYYMM') FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'public.agent_usage_hourly'::regclass AND NOT i.inhdetachpending
           AND c.relname ~ '^agent_usage_hourly_[0-9]{6}$'
         ORDER BY 1
    );
    -- Nothing is older than the first day of any table, or newer than the ledger's last partition. The opening balance has
    -- the day 1970-01-01. Totals of pairs have only a BRIN index by day: of these, only days that may be the first are read.
    v_first := least(v_ledger_days[1], v_hour_months[1]);
    IF p_from < v_first::timestamp AT TIME ZONE 'UTC' THEN
        v_first := least(v_first, (SELECT min(day) FROM public.agent_usage_daily));
    END IF;
    IF p_from < v_first::timestamp AT TIME ZONE 'UTC' THEN
        v_first := least(v_first, (SELECT min(day) FROM public.usage_daily WHERE day > '1970-01-01' AND day < v_first));
    END IF;
    v_first := greatest(coalesce(v_first, now()::date), (p_from AT TIME ZONE 'UTC')::date);
    v_end := least(p_to, greatest(now(), (v_ledger_days[cardinality(v_ledger_days)] + 1)::timestamp AT TIME ZONE 'UTC'));

    -- The range in UTC days, and in UTC hours where there are rows of hours.
    WITH pieces AS (
        SELECT since, since + width AS till, width, (day AT TIME ZONE 'UTC')::date AS day, width = '24 hours' AS is_day,
               (date_trunc('month', day, 'UTC') AT TIME ZONE 'UTC')::date = ANY (v_hour_months) AS in_hours,
               (day AT TIME ZONE 'UTC')::date = ANY (v_ledger_days) AS in_ledger
          FROM generate_series(v_first::timestamp AT TIME ZONE 'UTC', v_end - c_instant, '24 hours') AS day,
               LATERAL (SELECT day AS since, interval '24 hours' AS width
                        UNION ALL
                        SELECT hour, '1 hour' FROM generate_series(day, day + interval '23 hours', '1 hour') AS hour) AS s
    ), local_pieces AS (
        SELECT *, date_trunc(v_unit, since AT TIME ZONE p_time_zone) AS period,
               date_trunc(v_unit, (till - c_instant) AT TIME ZONE p_time_zone) AS last_period,
               (till - c_instant) AT TIME ZONE p_time_zone - since AT TIME ZONE p_time_zone AS local_width
          FROM pieces
         WHERE till > p_from AND since < v_end
    ), judged AS (
        -- A piece is whole if all of it is in the range and in one period, and the offset does not change within.
        SELECT *, since >= p_from AND till <= p_to
                  AND (v_unit IS NULL OR period = last_period AND local_width = width - c_instant) AS is_whole,
               EXISTS (SELECT FROM public.agent_usage_hour_marks m WHERE m.hour = since) AS is_marked
          FROM local_pieces
    ), placed AS (
        -- A day that the ledger has dropped is read as a whole if it can be: it was computed when it was dropped.
        SELECT *, v_of_users OR NOT in_hours OR (NOT in_ledger AND bool_or(is_day AND is_whole) OVER (PARTITION BY day)
                   AND (SELECT true FROM public.agent_usage_daily a WHERE a.day = judged.day LIMIT 1)) IS TRUE AS in_days
          FROM judged
    ), decided AS (
        SELECT *, CASE WHEN is_day <> in_days THEN 'none'
                       WHEN in_ledger AND (in_days OR is_marked OR NOT is_whole) THEN 'ledger'
                       WHEN NOT is_whole THEN 'unknown'
                       WHEN is_day THEN 'day' ELSE 'hour' END AS source,
               NOT v_of_users AND is_day AS of_users,
               is_whole AND NOT v_by_model AND NOT v_by_provider AS has_users
          FROM placed
    )
    SELECT array_agg(since ORDER BY since) FILTER (WHERE source = 'hour'), array_agg(period ORDER BY since) FILTER (WHERE source = 'hour'),
           array_agg(day ORDER BY since) FILTER (WHERE source = 'day'), array_agg(period ORDER BY since) FILTER (WHERE source = 'day'),
           coalesce(range_agg(tstzrange(since, till)) FILTER (WHERE source = 'ledger'), '{}'),
           array_agg(day ORDER BY since) FILTER (WHERE of_users AND has_users),
           array_agg(period ORDER BY since) FILTER (WHERE of_users AND has_users),
           coalesce(range_agg(tstzrange(since, till)) FILTER (WHERE of_users AND in_ledger AND NOT has_users), '{}'),
           array_agg(DISTINCT day) FILTER (WHERE NOT in_ledger), array_agg(DISTINCT day) FILTER (WHERE source = 'unknown')
      INTO v_hours, v_hour_periods, v_days, v_day_periods, v_ledger, v_user_days, v_user_day_periods, v_user_ledger,
           v_dropped_days, v_split_days
      FROM decided;
    v_ledger := v_ledger * tstzmultirange(tstzrange(p_from, p_to));
    v_user_ledger := v_user_ledger * tstzmultirange(tstzrange(p_from, p_to));

    -- A day with uses of which too little is known: none of its rows would look like none of its uses. Totals of pairs are read
    -- once, for all days without a roll-up: a look for one day may read them all (30 days of 3.5 million rows: 25 s).
    SELECT max(day) FILTER (WHERE is_rolled_up), array_agg(day ORDER BY day) FILTER (WHERE NOT is_rolled_up)
      INTO v_last_unknown, v_doubtful_days
      FROM (
        SELECT day, day = ANY (v_split_days) AS is_split,
               EXISTS (SELECT FROM public.agent_usage_daily a WHERE a.day = d.day)
               OR EXISTS (SELECT FROM public.agent_usage_hourly h
                           WHERE h.hour >= d.day::timestamp AT TIME ZONE 'UTC'
                             AND h.hour < (d.day + 1)::timestamp AT TIME ZONE 'UTC') AS is_rolled_up
          FROM unnest(v_dropped_days) AS d (day)
      ) AS dropped
     WHERE is_split OR NOT is_rolled_up AND NOT v_of_users;
    v_last_unknown := greatest(v_last_unknown, (
        SELECT max(day) FROM public.usage_daily
         WHERE usage_count > 0 AND day = ANY (v_doubtful_days)
           AND day BETWEEN v_doubtful_days[1] AND v_doubtful_days[cardinality(v_doubtful_days)]
    )) + interval '1 day';
    IF v_last_unknown IS NOT NULL THEN
        v_last_unknown := v_last_unknown AT TIME ZONE 'UTC' AT TIME ZONE p_time_zone;
        RAISE invalid_parameter_value USING
            MESSAGE = format('usage_summary: the first possible day in this time zone and grouping is %s',
                             date_trunc('day', v_last_unknown + interval '1 day' - c_instant)::date),
            HINT = 'The ledger has dropped the events of older days. Of some of these, whole UTC days or hours are known.';
    END IF;

    IF v_of_users THEN
        -- All days that the ledger has, in one pass and without their buckets: a user has as many of these as uses.
        RETURN QUERY
        WITH figures AS (
            SELECT date_trunc(v_unit, occurred_at AT TIME ZONE p_time_zone) AS period,
                   CASE WHEN v_by_agent THEN agent_id END AS agent_id, CASE WHEN v_by_user THEN user_id END AS user_id,
                   CASE WHEN v_by_model THEN coalesce(model, '') END AS model,
                   CASE WHEN v_by_provider THEN coalesce(provider, '') END AS provider,
                   count(*) AS usage_count, sum(messages) AS message_count, count(*) FILTER (WHERE success) AS success_count,
                   count(*) FILTER (WHERE NOT success) AS error_count, sum(input_tokens) AS input_tokens,
                   sum(output_tokens) AS output_tokens, coalesce(sum(cached_input_tokens), 0) AS cached_input_tokens,
                   coalesce(sum(cache_write_tokens), 0) AS cache_write_tokens,
                   coalesce(sum(reasoning_tokens), 0) AS reasoning_tokens, sum(tokens) AS total_tokens_used,
                   sum(cost_usd) AS total_cost_usd, count(cost_usd) AS cost_samples,
                   sum(response_time_ms) AS response_time_total_ms, count(response_time_ms) AS response_time_samples,
                   percentile_disc('{0.5,0.95,0.99}'::float8[]) WITHIN GROUP (
                       ORDER BY public.usage_latency_bucket(response_time_ms)) AS percentiles,
                   true AS is_from_ledger
              FROM public.usage_events
             WHERE type = 'usage' AND occurred_at >= lower(v_ledger) AND occurred_at < upper(v_ledger)
               -- Partitions of other names may lie between the days.
               AND occurred_at <@ v_ledger
               AND (p_agent_id IS NULL OR agent_id = p_agent_id) AND (p_user_id IS NULL OR user_id = p_user_id)
             GROUP BY 1, 2, 3, 4, 5
            UNION ALL
            -- The ledger has dropped these days: only the totals of pairs know users.
            SELECT p.period, CASE WHEN v_by_agent THEN agent_id END, CASE WHEN v_by_user THEN user_id END,
                   CASE WHEN v_by_model THEN '' END, CASE WHEN v_by_provider THEN '' END, usage_count, message_count,
                   success_count, error_count, input_tokens, output_tokens, cached_input_tokens, cache_write_tokens,
                   reasoning_tokens, total_tokens_used, nullif(total_cost_usd, 0), NULL, response_time_total_ms,
                   response_time_samples, NULL, false
              FROM unnest(v_days, v_day_periods) AS p (day, period)
              JOIN (SELECT * FROM public.usage_daily UNION ALL SELECT * FROM public.usage_retired_daily) AS pairs USING (day)
             WHERE day BETWEEN v_days[1] AND v_days[cardinality(v_days)] AND usage_count > 0
               AND (p_agent_id IS NULL OR agent_id = p_agent_id) AND (p_user_id IS NULL OR user_id = p_user_id)
        ), summed AS (
            SELECT period, agent_id, user_id, model, provider, sum(usage_count)::bigint AS usage_count,
                   sum(message_count)::bigint AS message_count, sum(success_count)::bigint AS success_count,
                   sum(error_count)::bigint AS error_count, sum(input_tokens) AS input_tokens,
                   sum(output_tokens) AS output_tokens, sum(cached_input_tokens) AS cached_input_tokens,
                   sum(cache_write_tokens) AS cache_write_tokens, sum(reasoning_tokens) AS reasoning_tokens,
                   sum(total_tokens_used) AS total_tokens_used, sum(total_cost_usd) AS total_cost_usd,
                   CASE WHEN bool_and(is_from_ledger) THEN sum(cost_samples)::bigint END AS cost_samples,
                   sum(response_time_samples)::bigint AS response_time_samples,
                   round(sum(response_time_total_ms) / nullif(sum(response_time_samples), 0))::integer AS avg_response_time_ms,
                   -- Unknown where totals of pairs have a part of them, or where they are too few to tell.
                   CASE WHEN sum(response_time_samples) >= 20
                             AND bool_and(is_from_ledger OR response_time_samples = 0) THEN max(percentiles) END AS percentiles
              FROM figures
             GROUP BY 1, 2, 3, 4, 5
        )
        SELECT period, agent_id, user_id, model, provider, usage_count, message_count, success_count, error_count, input_tokens,
               output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, total_tokens_used, total_cost_usd,
               cost_samples, response_time_samples, avg_response_time_ms, public.usage_latency_value(percentiles[1]),
               public.usage_latency_value(percentiles[2]), public.usage_latency_value(percentiles[3]), 1::bigint
          FROM summed
         ORDER BY 1, 2, 3, 4, 5;
    ELSE
        RETURN QUERY
        WITH rolled_up AS NOT MATERIALIZED (
            SELECT p.period, h.*
              FROM unnest(v_hours, v_hour_periods) AS p (hour, period) JOIN public.agent_usage_hourly h USING (hour)
             WHERE h.hour BETWEEN v_hours[1] AND v_hours[cardinality(v_hours)]
               AND (p_agent_id IS NULL OR h.agent_id = p_agent_id)
            UNION ALL
            SELECT p.period, d.day::timestamp AT TIME ZONE 'UTC', agent_id, model, provider, usage_count, message_count,
                   success_count, error_count, input_tokens, output_tokens, cached_input_tokens, cache_write_tokens,
                   reasoning_tokens, total_tokens_used, total_cost_usd, cost_samples, response_time_total_ms,
                   response_time_samples, latency_buckets, latency_counts, users
              FROM unnest(v_days, v_day_periods) AS p (day, period) JOIN public.agent_usage_daily d USING (day)
             WHERE p_agent_id IS NULL OR d.agent_id = p_agent_id
        ), ledger_days AS NOT MATERIALIZED (
            -- By day, so that only partitions with such hours are read.
            SELECT v_ledger * day AS figures, v_user_ledger * day AS users
              FROM unnest(v_ledger_days) AS d (ledger_day),
                   LATERAL (SELECT tstzmultirange(tstzrange(ledger_day::timestamp AT TIME ZONE 'UTC',
                                                            (ledger_day + 1)::timestamp AT TIME ZONE 'UTC')) AS day) AS m
        ), users AS (
            SELECT p.period, c.agent_id, NULL::text AS model, NULL::text AS provider, c.user_id, c.usage_count AS uses
              FROM unnest(v_user_days, v_user_day_periods) AS p (day, period)
              JOIN (SELECT * FROM public.usage_daily UNION ALL SELECT * FROM public.usage_retired_daily) AS c USING (day)
             WHERE c.day BETWEEN v_user_days[1] AND v_user_days[cardinality(v_user_days)] AND c.usage_count > 0
               AND (p_agent_id IS NULL OR c.agent_id = p_agent_id)
            UNION ALL
            SELECT e.*
              FROM ledger_days l, LATERAL (
                SELECT date_trunc(v_unit, e.occurred_at AT TIME ZONE p_time_zone), CASE WHEN v_by_agent THEN e.agent_id END,
                       CASE WHEN v_by_model THEN coalesce(e.model, '') END,
                       CASE WHEN v_by_provider THEN coalesce(e.provider, '') END, e.user_id, count(*)
                  FROM public.usage_events e
                 WHERE e.type = 'usage' AND e.occurred_at >= lower(l.users) AND e.occurred_at < upper(l.users)
                   AND e.occurred_at <@ l.users AND (p_agent_id IS NULL OR e.agent_id = p_agent_id)
                 GROUP BY 1, 2, 3, 4, 5
              ) AS e
             WHERE NOT isempty(l.users)
        ), figures AS (
            SELECT period, CASE WHEN v_by_agent THEN agent_id END AS agent_id,
                   CASE WHEN v_by_model THEN model END AS model, CASE WHEN v_by_provider THEN provider END AS provider,
                   NULL::smallint AS bucket, NULL::bigint AS times,
                   usage_count, message_count, success_count, error_count, input_tokens, output_tokens, cached_input_tokens,
                   cache_write_tokens, reasoning_tokens, total_tokens_used, total_cost_usd, cost_samples,
                   response_time_total_ms, response_time_samples, NULL::bigint AS users, NULL::numeric AS uses_of_users
              FROM rolled_up
            UNION ALL
            -- A function in FROM would store each histogram: twice the time.
            SELECT period, agent_id, model, provider, bucket, sum(times),
                   NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
              FROM (
                SELECT period, CASE WHEN v_by_agent THEN agent_id END AS agent_id, CASE WHEN v_by_model THEN model END AS model,
                       CASE WHEN v_by_provider THEN provider END AS provider, unnest(latency_buckets) AS bucket,
                       unnest(latency_counts) AS times
                  FROM rolled_up
              ) AS histograms
             GROUP BY 1, 2, 3, 4, 5
            UNION ALL
            SELECT e.*
              FROM ledger_days l, LATERAL (
                SELECT date_trunc(v_unit, e.occurred_at AT TIME ZONE p_time_zone), CASE WHEN v_by_agent THEN e.agent_id END,
                       CASE WHEN v_by_model THEN coalesce(e.model, '') END,
                       CASE WHEN v_by_provider THEN coalesce(e.provider, '') END,
                       public.usage_latency_bucket(e.response_time_ms), count(e.response_time_ms),
                       count(*), sum(e.messages), count(*) FILTER (WHERE e.success), count(*) FILTER (WHERE NOT e.success),
                       sum(e.input_tokens), sum(e.output_tokens), coalesce(sum(e.cached_input_tokens), 0),
                       coalesce(sum(e.cache_write_tokens), 0), coalesce(sum(e.reasoning_tokens), 0), sum(e.tokens),
                       sum(e.cost_usd), count(e.cost_usd), sum(e.response_time_ms), count(e.response_time_ms),
                       NULL::bigint, NULL::numeric
                  FROM public.usage_events e
                 WHERE e.type = 'usage' AND e.occurred_at >= lower(l.figures) AND e.occurred_at < upper(l.figures)
                   AND e.occurred_at <@ l.figures AND (p_agent_id IS NULL OR e.agent_id = p_agent_id)
                 GROUP BY 1, 2, 3, 4, 5
              ) AS e
             WHERE NOT isempty(l.figures)
            UNION ALL
            SELECT period, agent_id, model, provider, NULL, NULL,
                   NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, count(*), sum(uses)
              FROM (
                SELECT period, CASE WHEN v_by_agent THEN agent_id END AS agent_id, model, provider, user_id, sum(uses) AS uses
                  FROM users GROUP BY 1, 2, 3, 4, 5
              ) AS distinct_users
             GROUP BY 1, 2, 3, 4
        ), buckets AS (
            SELECT period, agent_id, model, provider, bucket, sum(times) AS times, sum(usage_count) AS usage_count,
                   sum(message_count) AS message_count, sum(success_count) AS success_count, sum(error_count) AS error_count,
                   sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
                   sum(cached_input_tokens) AS cached_input_tokens, sum(cache_write_tokens) AS cache_write_tokens,
                   sum(reasoning_tokens) AS reasoning_tokens, sum(total_tokens_used) AS total_tokens_used,
                   sum(total_cost_usd) AS total_cost_usd, sum(cost_samples) AS cost_samples,
                   sum(response_time_total_ms) AS response_time_total_ms, sum(response_time_samples) AS response_time_samples,
                   sum(users) AS users, sum(uses_of_users) AS uses_of_users
              FROM figures
             GROUP BY 1, 2, 3, 4, 5
        ), ranked AS (
            SELECT *, sum(times) OVER (grouping ORDER BY bucket) AS rank, sum(times) OVER grouping AS all_times
              FROM buckets
            WINDOW grouping AS (PARTITION BY period, agent_id, model, provider)
        ), summed AS (
            SELECT period, agent_id, model, provider, sum(usage_count)::bigint AS usage_count,
                   sum(message_count)::bigint AS message_count, sum(success_count)::bigint AS success_count,
                   sum(error_count)::bigint AS error_count, sum(input_tokens) AS input_tokens,
                   sum(output_tokens) AS output_tokens, sum(cached_input_tokens) AS cached_input_tokens,
                   sum(cache_write_tokens) AS cache_write_tokens, sum(reasoning_tokens) AS reasoning_tokens,
                   sum(total_tokens_used) AS total_tokens_used, sum(total_cost_usd) AS total_cost_usd,
                   sum(cost_samples)::bigint AS cost_samples,
                   coalesce(sum(response_time_samples), 0)::bigint AS response_time_samples,
                   round(sum(response_time_total_ms) / nullif(sum(response_time_samples), 0))::integer AS avg_response_time_ms,
                   -- Fewer are too few to tell.
                   max(all_times) >= 20 AS has_percentiles,
                   min(bucket) FILTER (WHERE rank >= ceil(0.50 * all_times)) AS p50,
                   min(bucket) FILTER (WHERE rank >= ceil(0.95 * all_times)) AS p95,
                   min(bucket) FILTER (WHERE rank >= ceil(0.99 * all_times)) AS p99,
                   -- Known where they are the users of exactly these uses: pairs that are deleted keep no days.
                   CASE WHEN sum(uses_of_users) = sum(usage_count) THEN sum(users)::bigint END AS users
              FROM ranked
             GROUP BY 1, 2, 3, 4
        )
        SELECT period, agent_id, NULL::uuid, model, provider, usage_count, message_count, success_count, error_count, input_tokens,
               output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, total_tokens_used, total_cost_usd,
               cost_samples, response_time_samples, avg_response_time_ms,
               CASE WHEN has_percentiles THEN public.usage_latency_value(p50) END,
               CASE WHEN has_percentiles THEN public.usage_latency_value(p95) END,
               CASE WHEN has_percentiles THEN public.usage_latency_value(p99) END, users
          FROM summed
         WHERE usage_count > 0
         ORDER BY 1, 2, 3, 4, 5;
    END IF;

    -- The snapshot may be older than a drop. It named the partitions to read, but those that exist now were read: the days
    -- of one that was dropped in between are missing above.
    IF EXISTS (
        SELECT FROM unnest(v_ledger_days) AS d (day)
         WHERE tstzmultirange(tstzrange(day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC'))
               && (v_ledger + v_user_ledger)
           AND pg_partition_root(to_regclass('public.usage_events_' || to_char(day, 'YYYYMMDD')))
               IS DISTINCT FROM 'public.usage_events'::regclass
    ) OR EXISTS (
        SELECT FROM (SELECT DISTINCT to_char(hour AT TIME ZONE 'UTC', 'YYYYMM') FROM unnest(v_hours) AS hour) AS m (month)
         WHERE pg_partition_root(to_regclass('public.agent_usage_hourly_' || month))
               IS DISTINCT FROM 'public.agent_usage_hourly'::regclass
    ) THEN
        RAISE serialization_failure USING
            MESSAGE = 'usage_summary: a partition of this range was dropped since the transaction began; try again';
    END IF;
END $$;
-- Where somebody dropped the function, this is a new one, and PostgreSQL lets everybody execute it.
REVOKE ALL ON FUNCTION public.usage_summary(timestamptz, timestamptz, text, text[], uuid, uuid)
    FROM PUBLIC, anon, authenticated, service_role;
-- Not for users: the figures of an agent that one person uses are that person's.
GRANT EXECUTE ON FUNCTION public.usage_summary(timestamptz, timestamptz, text, text[], uuid, uuid) TO service_role;
