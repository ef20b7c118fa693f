-- version: 5.0.0
-- lock_timeout: 100ms
-- squawk-ignore-file prefer-bigint-over-smallint -- there are 459 buckets
-- squawk-ignore-file prefer-bigint-over-int -- an hour or a day of one agent has fewer than two billion uses
--
-- Uses by hour, agent, model and provider, computed from the ledger; and marks, which say which hours must be rolled up
-- again. A percentile of any period is that of the summed histograms of its hours; percentiles cannot be averaged.

-- A rollback from 5.0.0 kept the rows: of hours and days that the ledger has dropped they are all there is.
-- squawk-ignore renaming-table -- nothing uses the kept table
ALTER TABLE IF EXISTS public.agent_usage_hourly_kept_5_0_0 RENAME TO agent_usage_hourly;
CREATE TABLE IF NOT EXISTS public.agent_usage_hourly (
    hour timestamptz NOT NULL,
    agent_id uuid NOT NULL,
    model text NOT NULL,
    provider text NOT NULL,
    usage_count bigint NOT NULL,
    message_count bigint NOT NULL,
    success_count bigint NOT NULL,
    error_count bigint NOT NULL,
    input_tokens numeric NOT NULL,
    output_tokens numeric NOT NULL,
    cached_input_tokens numeric NOT NULL,
    cache_write_tokens numeric NOT NULL,
    reasoning_tokens numeric NOT NULL,
    total_tokens_used numeric NOT NULL,
    total_cost_usd numeric,
    cost_samples bigint NOT NULL,
    response_time_total_ms numeric NOT NULL,
    response_time_samples bigint NOT NULL,
    latency_buckets smallint[] NOT NULL,
    latency_counts integer[] NOT NULL,
    users bigint NOT NULL,
    PRIMARY KEY (agent_id, hour, model, provider)
) PARTITION BY RANGE (hour);
CREATE INDEX IF NOT EXISTS idx_agent_usage_hourly_hour ON public.agent_usage_hourly (hour);
-- squawk-ignore renaming-table -- as above
ALTER TABLE IF EXISTS public.agent_usage_daily_kept_5_0_0 RENAME TO agent_usage_daily;
CREATE TABLE IF NOT EXISTS public.agent_usage_daily (
    day date NOT NULL,
    agent_id uuid NOT NULL,
    model text NOT NULL,
    provider text NOT NULL,
    usage_count bigint NOT NULL,
    message_count bigint NOT NULL,
    success_count bigint NOT NULL,
    error_count bigint NOT NULL,
    input_tokens numeric NOT NULL,
    output_tokens numeric NOT NULL,
    cached_input_tokens numeric NOT NULL,
    cache_write_tokens numeric NOT NULL,
    reasoning_tokens numeric NOT NULL,
    total_tokens_used numeric NOT NULL,
    total_cost_usd numeric,
    cost_samples bigint NOT NULL,
    response_time_total_ms numeric NOT NULL,
    response_time_samples bigint NOT NULL,
    latency_buckets smallint[] NOT NULL,
    latency_counts integer[] NOT NULL,
    users bigint NOT NULL,
    PRIMARY KEY (agent_id, day, model, provider)
);
CREATE INDEX IF NOT EXISTS idx_agent_usage_daily_day ON public.agent_usage_daily (day);
-- Neither a primary key nor another unique one: batches of the same hour would wait for one another's commit. The years are
-- those of Python's dates: a mark of another would stop the task that reads them.
CREATE TABLE IF NOT EXISTS public.agent_usage_hour_marks (
    hour timestamptz NOT NULL CHECK (hour >= '0001-01-01 00:00:00+00' AND hour < '10000-01-01 00:00:00+00')
);
ALTER TABLE public.agent_usage_hourly ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.agent_usage_daily ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.agent_usage_hour_marks ENABLE ROW LEVEL SECURITY;

-- Creates the partition of a UTC month, as user_agent_history_ensure_month does.
CREATE OR REPLACE FUNCTION public.agent_usage_hourly_ensure_month(p_day date) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_first pg_catalog.timestamp := date_trunc('month', p_day::timestamp);
    v_name pg_catalog.text := 'agent_usage_hourly_' || to_char(v_first, 'YYYYMM');
BEGIN
    IF to_regclass(format('public.%I', v_name)) IS NOT NULL THEN
        RETURN;
    END IF;
    BEGIN
        EXECUTE format('CREATE TABLE public.%I (LIKE public.agent_usage_hourly INCLUDING ALL)', v_name);
        -- A partition inherits neither row-level security nor the absence of grants. It is read through its table.
        EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', v_name);
        EXECUTE format('REVOKE ALL ON public.%I FROM PUBLIC, anon, authenticated, service_role', v_name);
        EXECUTE format('ALTER TABLE public.agent_usage_hourly ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                       v_name, v_first AT TIME ZONE 'UTC', (v_first + interval '1 month') AT TIME ZONE 'UTC');
    EXCEPTION WHEN duplicate_table OR duplicate_object OR unique_violation THEN
        -- Another session was first; this one waited for its commit, and the partition exists.
        NULL;
    END;
END $$;

-- Buckets grow by the factor 1.02 / 0.98, so that the middle of each is at most 2 % from any value in it. 86,400,000 ms, the
-- greatest response time, is in bucket 458. A body that is bound at creation needs no search_path, which would keep the
-- function from being inlined: called, it takes 2 microseconds an event.
CREATE OR REPLACE FUNCTION public.usage_latency_bucket(p_ms integer) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (CASE WHEN p_ms = 0 THEN 0 ELSE 1 + ceil(ln(p_ms::double precision) / ln(1.02::double precision / 0.98)) END)::smallint;
CREATE OR REPLACE FUNCTION public.usage_latency_value(p_bucket smallint) RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN p_bucket = 0 THEN 0
            ELSE 2 * power(1.02::double precision / 0.98, p_bucket - 1) / (1.02::double precision / 0.98 + 1) END;

-- Tells which of the days are in a roll-up. Workers may not read these, and need not: a day that the ledger has dropped must
-- not be counted again, even when the totals of all its pairs are deleted.
CREATE OR REPLACE FUNCTION public.usage_rolled_up_days(p_days date[]) RETURNS date[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(day), '{}')
      FROM unnest(p_days) AS d (day)
     WHERE EXISTS (SELECT FROM public.agent_usage_daily AS a WHERE a.day = d.day)
        OR EXISTS (SELECT FROM public.agent_usage_hourly AS h
                    WHERE h.hour >= d.day::timestamp AT TIME ZONE 'UTC'
                      AND h.hour < (d.day + 1)::timestamp AT TIME ZONE 'UTC')
$$;

-- A platform's default privileges may have granted more.
REVOKE ALL ON public.agent_usage_hourly, public.agent_usage_daily, public.agent_usage_hour_marks
    FROM PUBLIC, anon, authenticated, service_role;
REVOKE ALL ON FUNCTION public.agent_usage_hourly_ensure_month(date), public.usage_latency_bucket(integer),
    public.usage_latency_value(smallint), public.usage_rolled_up_days(date[]) FROM PUBLIC, anon, authenticated, service_role;
-- Not for users: the figures of an agent that one person uses are that person's.
GRANT SELECT ON public.agent_usage_hourly, public.agent_usage_daily, public.agent_usage_hour_marks TO service_role;
GRANT EXECUTE ON FUNCTION public.usage_latency_bucket(integer), public.usage_latency_value(smallint) TO service_role;
GRANT INSERT ON public.agent_usage_hour_marks TO usage_ingest;
GRANT EXECUTE ON FUNCTION public.usage_rolled_up_days(date[]) TO usage_ingest;
-- For a service_role that could not be given BYPASSRLS.
CREATE POLICY agent_usage_hourly_service_role ON public.agent_usage_hourly FOR SELECT TO service_role USING (true);
CREATE POLICY agent_usage_daily_service_role ON public.agent_usage_daily FOR SELECT TO service_role USING (true);
CREATE POLICY agent_usage_hour_marks_service_role ON public.agent_usage_hour_marks FOR SELECT TO service_role USING (true);
CREATE POLICY agent_usage_hour_marks_ingest ON public.agent_usage_hour_marks FOR INSERT TO usage_ingest WITH CHECK (true);

DO $months$
BEGIN
    PERFORM public.agent_usage_hourly_ensure_month(((now() AT TIME ZONE 'UTC') + ahead * interval '1 month')::date)
       FROM generate_series(0, 1) AS ahead;
END
$months$;

-- Every hour that the ledger may have events of, by the names of its partitions: the ledger itself takes minutes to read.
DO $marks$
BEGIN
    INSERT INTO public.agent_usage_hour_marks (hour)
    SELECT (to_date(right(c.relname, 8), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC') + n * interval '1 hour'
      FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid, generate_series(0, 23) AS n
     WHERE i.inhparent = 'public.usage_events'::regclass AND c.relname ~ '^usage_events_[0-9]{8}$'
       AND right(c.relname, 8) <= to_char((now() AT TIME ZONE 'UTC') + interval '1 day', 'YYYYMMDD');
END
$marks$;

DO $comments$
DECLARE
    v_table text;
    v_column text;
    v_comment text;
BEGIN
    COMMENT ON TABLE public.agent_usage_hourly IS 'Uses by UTC hour, agent, model and provider, computed from the ledger by the task analytics.hours; partitioned by UTC month, dropped after USAGE_HOURLY_RETENTION_DAYS.';
    COMMENT ON COLUMN public.agent_usage_hourly.hour IS 'Start of the UTC hour in which the uses happened.';
    COMMENT ON INDEX public.agent_usage_hourly_pkey IS 'Finds the hours of an agent.';
    COMMENT ON INDEX public.idx_agent_usage_hourly_hour IS 'Finds the rows of an hour.';
    COMMENT ON TABLE public.agent_usage_daily IS 'Uses by UTC day, agent, model and provider, of days that the ledger has dropped; computed from it by the task maintenance.manage_partitions before that, and kept.';
    COMMENT ON COLUMN public.agent_usage_daily.day IS 'The UTC day on which the uses happened.';
    COMMENT ON INDEX public.agent_usage_daily_pkey IS 'Finds the days of an agent.';
    COMMENT ON INDEX public.idx_agent_usage_daily_day IS 'Finds the rows of a day.';
    FOREACH v_table IN ARRAY ARRAY['agent_usage_hourly', 'agent_usage_daily'] LOOP
        FOR v_column, v_comment IN VALUES
            ('agent_id', 'Agent that was used; it may be deleted.'),
            ('model', 'Name of the model; empty: not reported.'),
            ('provider', 'Name of the provider of the model; empty: not reported.'),
            ('usage_count', 'Number of uses.'),
            ('message_count', 'Number of messages.'),
            ('success_count', 'Number of uses that succeeded.'),
            ('error_count', 'Number of uses that failed.'),
            ('input_tokens', 'Number of tokens sent to the model.'),
            ('output_tokens', 'Number of tokens that the model answered.'),
            ('cached_input_tokens', 'Number of the input tokens that the provider read from its cache, as far as reported.'),
            ('cache_write_tokens', 'Number of the input tokens that the provider wrote to its cache, as far as reported.'),
            ('reasoning_tokens', 'Number of the output tokens that the model spent on reasoning, as far as reported.'),
            ('total_tokens_used', 'Number of tokens that is counted.'),
            ('total_cost_usd', 'Cost of the uses with a known one, in US dollars; NULL: of no use is it known.'),
            ('cost_samples', 'Number of uses with a known cost.'),
            ('response_time_total_ms', 'Sum of the reported response times, in milliseconds.'),
            ('response_time_samples', 'Number of uses with a reported response time.'),
            ('latency_buckets', 'The buckets of usage_latency_bucket() that have response times, ascending.'),
            ('latency_counts', 'Number of response times in each of the latency_buckets.'),
            ('users', 'Number of distinct users; not additive.')
        LOOP
            EXECUTE format('COMMENT ON COLUMN public.%I.%I IS %L', v_table, v_column, v_comment);
        END LOOP;
        EXECUTE format('COMMENT ON POLICY %I ON public.%I IS %L', v_table || '_service_role', v_table,
                       'A service_role without BYPASSRLS reads every row.');
    END LOOP;
    COMMENT ON TABLE public.agent_usage_hour_marks IS 'Hours that must be rolled up into agent_usage_hourly again, any number of times each; written with the events, deleted by the task analytics.hours.';
    COMMENT ON COLUMN public.agent_usage_hour_marks.hour IS 'Start of the UTC hour.';
    COMMENT ON POLICY agent_usage_hour_marks_service_role ON public.agent_usage_hour_marks IS 'A service_role without BYPASSRLS reads every mark.';
    COMMENT ON POLICY agent_usage_hour_marks_ingest ON public.agent_usage_hour_marks IS 'Workers that count mark any hour.';
    COMMENT ON FUNCTION public.agent_usage_hourly_ensure_month IS 'Creates the partition of a UTC month of the hourly roll-up unless it exists.';
    COMMENT ON FUNCTION public.usage_rolled_up_days IS 'Returns those of the UTC days that are in the hourly or the daily roll-up of agents.';
    COMMENT ON FUNCTION public.usage_latency_bucket IS 'Returns the number of the histogram bucket of a response time in milliseconds, 0 to 458; NULL of NULL.';
    COMMENT ON FUNCTION public.usage_latency_value IS 'Returns the response time in milliseconds that stands for a bucket, at most 2 % from each in it.';
END
$comments$;
