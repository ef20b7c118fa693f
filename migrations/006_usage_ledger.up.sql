-- version: 4.0.0
-- What exactly-once ingest stands on: the ledger that decides what is a duplicate, the daily roll-up that
-- explains every counter, the quarantine, and the register of stream entries that keeps the books of intake.

ALTER TABLE public.user_agents
    ADD COLUMN response_time_total_ms bigint NOT NULL DEFAULT 0,
    ADD COLUMN response_time_samples bigint NOT NULL DEFAULT 0,
    -- When the newest event that named a conversation happened: without it the order of arrival would decide.
    ADD COLUMN last_conversation_at timestamptz;

-- The ledger. No index beside the primary key and no foreign key: each would be paid for by every event.
CREATE TABLE public.usage_events (
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

-- Creates the partition of one UTC day. LIKE + ATTACH instead of PARTITION OF, which would lock out every writer.
CREATE FUNCTION public.usage_events_ensure_day(p_day date) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    v_name text := 'usage_events_' || to_char(p_day, 'YYYYMMDD');
    v_from timestamptz := p_day::timestamp AT TIME ZONE 'UTC';
    v_to timestamptz := (p_day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
    IF to_regclass(format('public.%I', v_name)) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE public.%I (LIKE public.usage_events INCLUDING ALL)', v_name);
    -- A partition inherits neither row-level security nor the absence of grants.
    EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', v_name);
    EXECUTE format('REVOKE ALL ON public.%I FROM PUBLIC, anon, authenticated', v_name);
    EXECUTE format('ALTER TABLE public.usage_events ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                   v_name, v_from, v_to);
END $$;
REVOKE EXECUTE ON FUNCTION public.usage_events_ensure_day(date) FROM PUBLIC, anon, authenticated;

CREATE TABLE public.usage_daily (
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    day date NOT NULL,
    usage_count bigint NOT NULL DEFAULT 0,
    message_count bigint NOT NULL DEFAULT 0,
    conversation_count bigint NOT NULL DEFAULT 0,
    success_count bigint NOT NULL DEFAULT 0,
    error_count bigint NOT NULL DEFAULT 0,
    input_tokens bigint NOT NULL DEFAULT 0,
    output_tokens bigint NOT NULL DEFAULT 0,
    total_tokens_used bigint NOT NULL DEFAULT 0,
    total_cost_usd numeric(20, 10) NOT NULL DEFAULT 0,
    response_time_total_ms bigint NOT NULL DEFAULT 0,
    response_time_samples bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, agent_id, day)
) WITH (fillfactor = 70);
COMMENT ON COLUMN public.usage_daily.conversation_count IS
    'conversations first seen on this day''s events; their sum is user_agents.conversation_count';

-- Rows that were counted before there was a roll-up: their balance stands on a day of its own, so that the
-- counters are the sum of usage_daily from the first day. The average is all that is known of their latency.
UPDATE public.user_agents
   SET response_time_total_ms = avg_response_time_ms::bigint * usage_count, response_time_samples = usage_count
 WHERE avg_response_time_ms IS NOT NULL AND usage_count > 0;
INSERT INTO public.usage_daily (user_id, agent_id, day, usage_count, message_count, conversation_count, success_count,
                                error_count, total_tokens_used, total_cost_usd, response_time_total_ms,
                                response_time_samples)
SELECT user_id, agent_id, date '1970-01-01', usage_count, message_count, conversation_count, success_count,
       error_count, total_tokens_used, total_cost_usd, response_time_total_ms, response_time_samples
  FROM public.user_agents
 WHERE (usage_count, message_count, conversation_count, success_count, error_count, total_tokens_used, total_cost_usd)
       <> (0, 0, 0, 0, 0, 0, 0);
COMMENT ON TABLE public.usage_daily IS 'sums per UTC day; day 1970-01-01 holds the opening balance of rows older than 4.0.0';

CREATE TABLE public.user_agent_conversations (
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    PRIMARY KEY (user_id, agent_id, conversation_id)
);

-- Every stream entry that was counted. It never decides whether an event counts (the ledger does); it tells a
-- redelivered entry from a new one, so that the books below add up whatever was delivered twice.
CREATE TABLE public.usage_entries (
    key uuid PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE public.usage_intake (
    day date NOT NULL,
    stream text NOT NULL,
    accepted bigint NOT NULL DEFAULT 0,
    applied bigint NOT NULL DEFAULT 0,
    duplicate bigint NOT NULL DEFAULT 0,
    quarantined bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (day, stream),
    CONSTRAINT usage_intake_adds_up CHECK (accepted = applied + duplicate + quarantined)
) WITH (fillfactor = 50);

CREATE TABLE public.usage_dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entry_key uuid NOT NULL,
    position integer NOT NULL,
    stream text NOT NULL,
    entry_id text NOT NULL,
    events integer NOT NULL DEFAULT 1 CHECK (events > 0),
    reason text NOT NULL,
    payload text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    replayed_at timestamptz,
    UNIQUE (entry_key, position)
);
COMMENT ON COLUMN public.usage_dead_letters.events IS 'how many events the letter stands for: more than 1 when a whole entry was unreadable';

-- Children go with their pair, also when a user or agent is deleted by cascade. A statement trigger instead of
-- foreign keys: those would look the parent up again for every row that ingest inserts.
CREATE FUNCTION public.user_agents_forget_children() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    DELETE FROM public.usage_daily d USING gone g WHERE (d.user_id, d.agent_id) = (g.user_id, g.agent_id);
    DELETE FROM public.user_agent_conversations c USING gone g WHERE (c.user_id, c.agent_id) = (g.user_id, g.agent_id);
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION public.user_agents_forget_children() FROM PUBLIC, anon, authenticated;
CREATE TRIGGER user_agents_forget_children AFTER DELETE ON public.user_agents
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION public.user_agents_forget_children();

ALTER TABLE public.usage_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.usage_daily ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.user_agent_conversations ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.usage_entries ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.usage_intake ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.usage_dead_letters ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON public.usage_events, public.usage_daily, public.user_agent_conversations, public.usage_entries,
    public.usage_intake, public.usage_dead_letters FROM PUBLIC, anon, authenticated;
GRANT SELECT ON public.usage_events, public.usage_daily, public.user_agent_conversations, public.usage_entries,
    public.usage_intake, public.usage_dead_letters TO service_role;

-- The same door as in 3.0.0, but what comes in by it is in the ledger and the roll-up, too. The caller may not write
-- those, so the function is SECURITY DEFINER and asks itself what row-level security asked before: for whom?
CREATE OR REPLACE FUNCTION public.track_agent_usage(
    p_user_id uuid,
    p_agent_id uuid,
    p_success boolean DEFAULT true,
    p_tokens bigint DEFAULT 0,
    p_cost numeric DEFAULT 0,
    p_response_time integer DEFAULT NULL
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $body$
DECLARE
    v_caller name := coalesce(nullif(current_setting('role', true), 'none'), session_user);
    v_day date := (now() AT TIME ZONE 'UTC')::date;
    v_successes integer := CASE WHEN coalesce(p_success, true) THEN 1 ELSE 0 END;
    v_samples integer := CASE WHEN p_response_time IS NULL THEN 0 ELSE 1 END;
BEGIN
    IF p_user_id IS DISTINCT FROM auth.uid() AND v_caller <> current_user
       AND NOT pg_has_role(v_caller, 'service_role', 'MEMBER') THEN
        RAISE insufficient_privilege USING MESSAGE = 'track_agent_usage: this is not your user';
    END IF;
    PERFORM public.usage_events_ensure_day(v_day);
    INSERT INTO public.usage_events (event_id, occurred_at, type, user_id, agent_id, messages, input_tokens,
                                     output_tokens, tokens, cost_usd, response_time_ms, success)
    VALUES (gen_random_uuid(), now(), 'usage', p_user_id, p_agent_id, 1, 0, 0, coalesce(p_tokens, 0), p_cost,
            p_response_time, v_successes = 1);
    INSERT INTO public.user_agents AS ua (
        user_id, agent_id, usage_count, message_count, success_count, error_count, total_tokens_used, total_cost_usd,
        response_time_total_ms, response_time_samples, avg_response_time_ms, first_used_at, last_used_at
    )
    VALUES (
        p_user_id, p_agent_id, 1, 1, v_successes, 1 - v_successes, coalesce(p_tokens, 0), coalesce(p_cost, 0),
        coalesce(p_response_time, 0), v_samples, p_response_time, now(), now()
    )
    ON CONFLICT (user_id, agent_id) DO UPDATE SET
        usage_count = ua.usage_count + 1,
        message_count = ua.message_count + 1,
        success_count = ua.success_count + excluded.success_count,
        error_count = ua.error_count + excluded.error_count,
        total_tokens_used = ua.total_tokens_used + excluded.total_tokens_used,
        total_cost_usd = ua.total_cost_usd + excluded.total_cost_usd,
        response_time_total_ms = ua.response_time_total_ms + excluded.response_time_total_ms,
        response_time_samples = ua.response_time_samples + excluded.response_time_samples,
        avg_response_time_ms = round((ua.response_time_total_ms + excluded.response_time_total_ms)::numeric
                                     / nullif(ua.response_time_samples + excluded.response_time_samples, 0)),
        first_used_at = least(ua.first_used_at, excluded.first_used_at),
        last_used_at = greatest(ua.last_used_at, excluded.last_used_at);
    INSERT INTO public.usage_daily AS d (
        user_id, agent_id, day, usage_count, message_count, success_count, error_count, total_tokens_used,
        total_cost_usd, response_time_total_ms, response_time_samples
    )
    VALUES (
        p_user_id, p_agent_id, v_day, 1, 1, v_successes, 1 - v_successes, coalesce(p_tokens, 0), coalesce(p_cost, 0),
        coalesce(p_response_time, 0), v_samples
    )
    ON CONFLICT (user_id, agent_id, day) DO UPDATE SET
        usage_count = d.usage_count + 1,
        message_count = d.message_count + 1,
        success_count = d.success_count + excluded.success_count,
        error_count = d.error_count + excluded.error_count,
        total_tokens_used = d.total_tokens_used + excluded.total_tokens_used,
        total_cost_usd = d.total_cost_usd + excluded.total_cost_usd,
        response_time_total_ms = d.response_time_total_ms + excluded.response_time_total_ms,
        response_time_samples = d.response_time_samples + excluded.response_time_samples;
END
$body$;
