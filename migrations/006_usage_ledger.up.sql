-- version: 4.0.0
-- lock_timeout: 100ms
-- squawk-ignore-file prefer-bigint-over-int -- the contract bounds these numbers well below two thousand million
--
-- The ledger: one row for each counted event. It decides whether an event is a duplicate.

-- A rollback from 4.0.0 kept the rows under another name.
-- squawk-ignore renaming-table -- nothing uses the kept table
ALTER TABLE IF EXISTS public.usage_events_kept_4_0_0 RENAME TO usage_events;
-- The primary key is the only index and there is no foreign key, since each of them would slow every insert.
CREATE TABLE IF NOT EXISTS public.usage_events (
    event_id uuid NOT NULL,
    occurred_at timestamptz NOT NULL,
    type text NOT NULL,
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    messages integer NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    tokens bigint NOT NULL,
    cost_usd numeric(20, 10),
    response_time_ms integer,
    success boolean NOT NULL,
    conversation_id uuid,
    model text,
    rating numeric(12, 10),
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (event_id, occurred_at)
) PARTITION BY RANGE (occurred_at);
ALTER TABLE public.usage_events ENABLE ROW LEVEL SECURITY;
-- A platform's default privileges may have granted more than SELECT.
REVOKE ALL ON public.usage_events FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.usage_events TO service_role;
-- For a service_role that could not be given BYPASSRLS.
CREATE POLICY usage_events_service_role ON public.usage_events FOR SELECT TO service_role USING (true);

-- Creates the partition of one UTC day. LIKE and ATTACH instead of PARTITION OF, which would lock out every writer.
-- Variables name their types in full, here and in later migrations: a role that may execute a function may also call
-- plpgsql_validator() on it, which compiles it with the caller's search_path, and the session keeps the result.
CREATE FUNCTION public.usage_events_ensure_day(p_day date) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_name pg_catalog.text := 'usage_events_' || to_char(p_day, 'YYYYMMDD');
    v_from pg_catalog.timestamptz := p_day::timestamp AT TIME ZONE 'UTC';
    v_to pg_catalog.timestamptz := (p_day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
    IF to_regclass(format('public.%I', v_name)) IS NOT NULL THEN
        RETURN;
    END IF;
    -- A partition inherits no settings, no row-level security and not the absence of grants; it is read through its table.
    -- Throttled as by default, an ANALYZE of autovacuum would keep its snapshot, and thereby dead rows, for a minute.
    EXECUTE format('CREATE TABLE public.%I (LIKE public.usage_events INCLUDING ALL)'
                   ' WITH (autovacuum_vacuum_cost_limit = 2000)', v_name);
    EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', v_name);
    EXECUTE format('REVOKE ALL ON public.%I FROM PUBLIC, anon, authenticated, service_role', v_name);
    EXECUTE format('ALTER TABLE public.usage_events ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                   v_name, v_from, v_to);
EXCEPTION WHEN duplicate_table OR duplicate_object OR unique_violation THEN
    -- Another session was first; this one waited for its commit, and the partition exists.
    NULL;
END $$;
REVOKE ALL ON FUNCTION public.usage_events_ensure_day(date) FROM PUBLIC, anon, authenticated, service_role;

-- Creates a week of partitions before the first events; otherwise many sessions would try to create the same one, and
-- all but one would fail. The periodic task creates the next ones.
DO $days$
BEGIN
    PERFORM public.usage_events_ensure_day((now() AT TIME ZONE 'UTC')::date + ahead) FROM generate_series(0, 7) AS ahead;
END
$days$;

DO $comments$
BEGIN
    COMMENT ON TABLE public.usage_events IS 'The ledger: one row for each counted event, written by the workers and track_agent_usage(); partitioned by UTC day, dropped after USAGE_RETENTION_DAYS.';
    COMMENT ON COLUMN public.usage_events.event_id IS 'Identifies the event; given by the publisher.';
    COMMENT ON COLUMN public.usage_events.occurred_at IS 'When the event happened; given by the publisher.';
    COMMENT ON COLUMN public.usage_events.type IS 'usage or rating.';
    COMMENT ON COLUMN public.usage_events.user_id IS 'The user of the pair.';
    COMMENT ON COLUMN public.usage_events.agent_id IS 'The agent of the pair.';
    COMMENT ON COLUMN public.usage_events.messages IS 'Number of messages.';
    COMMENT ON COLUMN public.usage_events.input_tokens IS 'Number of tokens sent to the model.';
    COMMENT ON COLUMN public.usage_events.output_tokens IS 'Number of tokens that the model answered.';
    COMMENT ON COLUMN public.usage_events.tokens IS 'Number of tokens that is counted.';
    COMMENT ON COLUMN public.usage_events.cost_usd IS 'Cost in US dollars; NULL: not reported.';
    COMMENT ON COLUMN public.usage_events.response_time_ms IS 'Response time in milliseconds; NULL: not reported.';
    COMMENT ON COLUMN public.usage_events.success IS 'Whether the use succeeded.';
    COMMENT ON COLUMN public.usage_events.conversation_id IS 'The conversation; NULL: none.';
    COMMENT ON COLUMN public.usage_events.model IS 'Name of the model; NULL: not reported.';
    COMMENT ON COLUMN public.usage_events.rating IS 'Rating from 0 to 5; only in a rating.';
    COMMENT ON COLUMN public.usage_events.recorded_at IS 'When the event was counted.';
    COMMENT ON INDEX public.usage_events_pkey IS 'Finds the event of an id and time, which is then a duplicate.';
    COMMENT ON POLICY usage_events_service_role ON public.usage_events IS 'A service_role without BYPASSRLS reads every event.';
    COMMENT ON FUNCTION public.usage_events_ensure_day IS 'Creates the partition of a UTC day of the ledger unless it exists.';
END
$comments$;
