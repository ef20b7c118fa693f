-- version: 4.0.0
-- transaction: off
-- lock_timeout: 100ms
--
-- What exactly-once ingest stands on: the ledger that decides what is a duplicate, the daily roll-up that
-- explains every counter, the quarantine, and the register of stream entries that keeps the books of intake.
-- Each statement is short, or locks few rows at a time, and can be run again after a kill.
--
-- squawk-disable-assume-in-transaction
-- squawk-ignore-file prefer-robust-stmts -- what has no IF NOT EXISTS changes nothing when it is done again
-- squawk-ignore-file prefer-bigint-over-int -- the contract bounds these numbers well below two thousand million

-- A way back to 3.0.0 that stopped before it put anything aside left the values where they are.
DO $stopped$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgname = 'user_agents_keep_4_0_0') THEN
        DROP TRIGGER user_agents_keep_4_0_0 ON public.user_agents;
        DROP FUNCTION public.user_agents_keep_4_0_0();
        DROP TABLE public.user_agents_kept_4_0_0;
    END IF;
END
$stopped$;

-- Constant defaults live in the catalogue: no row is rewritten.
ALTER TABLE public.user_agents
    ADD COLUMN IF NOT EXISTS response_time_total_ms bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS response_time_samples bigint NOT NULL DEFAULT 0,
    -- When the newest event that named a conversation happened: without it the order of arrival would decide.
    ADD COLUMN IF NOT EXISTS last_conversation_at timestamptz;

-- What a way back from 4.0.0 kept aside. usage_entries comes last, since a worker counts as soon as it is there.
DO $kept$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['usage_events', 'usage_daily', 'usage_retired_daily', 'user_agent_conversations',
                                   'usage_intake', 'usage_dead_letters'] LOOP
        CONTINUE WHEN to_regclass(format('public.%I', v_table || '_kept_4_0_0')) IS NULL;
        EXECUTE format('ALTER TABLE public.%I RENAME TO %I', v_table || '_kept_4_0_0', v_table);
    END LOOP;
END
$kept$;

-- The ledger. No index beside the primary key and no foreign key: each would be paid for by every event.
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

-- Creates the partition of one UTC day. LIKE + ATTACH instead of PARTITION OF, which would lock out every writer.
-- Variables name their types in full, here and below: whoever may execute a function may call plpgsql_validator() on
-- it, which compiles it with the caller's search_path, and the session keeps the result.
CREATE OR REPLACE FUNCTION public.usage_events_ensure_day(p_day date) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_name pg_catalog.text := 'usage_events_' || to_char(p_day, 'YYYYMMDD');
    v_from pg_catalog.timestamptz := p_day::timestamp AT TIME ZONE 'UTC';
    v_to pg_catalog.timestamptz := (p_day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
    IF to_regclass(format('public.%I', v_name)) IS NOT NULL THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE public.%I (LIKE public.usage_events INCLUDING ALL)', v_name);
    -- A partition inherits neither row-level security nor the absence of grants. It is read through its table.
    EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', v_name);
    EXECUTE format('REVOKE ALL ON public.%I FROM PUBLIC, anon, authenticated, service_role', v_name);
    EXECUTE format('ALTER TABLE public.usage_events ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                   v_name, v_from, v_to);
EXCEPTION WHEN duplicate_table OR duplicate_object OR unique_violation THEN
    -- Another session came first; we waited for its commit, and the partition is there.
    NULL;
END $$;
REVOKE ALL ON FUNCTION public.usage_events_ensure_day(date) FROM PUBLIC, anon, authenticated, service_role;

CREATE TABLE IF NOT EXISTS public.usage_daily (
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
-- The last days among those of years. A day's rows lie together, and BRIN costs an insert next to nothing.
-- squawk-ignore require-concurrent-index-creation -- the table is empty
CREATE INDEX IF NOT EXISTS idx_usage_daily_day ON public.usage_daily USING brin (day) WITH (autosummarize = on);
COMMENT ON COLUMN public.usage_daily.conversation_count IS
    'conversations first seen on this day''s events; their sum is user_agents.conversation_count';
COMMENT ON TABLE public.usage_daily IS 'sums per UTC day; day 1970-01-01 holds the opening balance: what rows brought that are older than 4.0.0, and what was accepted as unexplained';

-- A pair that is purged and used again begins a new life with new counters, while the ledger keeps the events of the old
-- one until their day is dropped. What the old lives counted on those days stands here, so that for every pair and
-- retained day the ledger's sums are those of usage_daily plus these.
CREATE TABLE IF NOT EXISTS public.usage_retired_daily (
    LIKE public.usage_daily INCLUDING DEFAULTS,
    PRIMARY KEY (day, user_id, agent_id)
);
COMMENT ON TABLE public.usage_retired_daily IS
    'sums per UTC day of pairs that were deleted since; kept as long as the ledger keeps the day';

CREATE TABLE IF NOT EXISTS public.user_agent_conversations (
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    PRIMARY KEY (user_id, agent_id, conversation_id)
);

CREATE TABLE IF NOT EXISTS public.usage_intake (
    day date NOT NULL,
    stream text NOT NULL,
    accepted bigint NOT NULL DEFAULT 0,
    applied bigint NOT NULL DEFAULT 0,
    duplicate bigint NOT NULL DEFAULT 0,
    quarantined bigint NOT NULL DEFAULT 0,
    booked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (day, stream),
    CONSTRAINT usage_intake_adds_up CHECK (accepted = applied + duplicate + quarantined)
) WITH (fillfactor = 50);
COMMENT ON COLUMN public.usage_intake.booked_at IS 'when the last batch of the day and stream was booked, just before its commit';

CREATE TABLE IF NOT EXISTS public.usage_dead_letters (
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

-- What is left of pairs that have no row any more: the sums of the days that the ledger still has.
CREATE OR REPLACE FUNCTION public.usage_retire_pairs(p_users uuid[], p_agents uuid[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    WITH ended AS (
        DELETE FROM public.usage_daily d USING unnest(p_users, p_agents) AS g (user_id, agent_id)
         WHERE (d.user_id, d.agent_id) = (g.user_id, g.agent_id)
        RETURNING d.*
    )
    INSERT INTO public.usage_retired_daily AS p (
        user_id, agent_id, day, usage_count, message_count, conversation_count, success_count, error_count,
        input_tokens, output_tokens, total_tokens_used, total_cost_usd, response_time_total_ms, response_time_samples
    )
    SELECT user_id, agent_id, day, usage_count, message_count, conversation_count, success_count, error_count,
           input_tokens, output_tokens, total_tokens_used, total_cost_usd, response_time_total_ms, response_time_samples
      FROM ended
     WHERE to_regclass('public.usage_events_' || to_char(day, 'YYYYMMDD')) IS NOT NULL
    ON CONFLICT (day, user_id, agent_id) DO UPDATE SET
        usage_count = p.usage_count + excluded.usage_count,
        message_count = p.message_count + excluded.message_count,
        conversation_count = p.conversation_count + excluded.conversation_count,
        success_count = p.success_count + excluded.success_count,
        error_count = p.error_count + excluded.error_count,
        input_tokens = p.input_tokens + excluded.input_tokens,
        output_tokens = p.output_tokens + excluded.output_tokens,
        total_tokens_used = p.total_tokens_used + excluded.total_tokens_used,
        total_cost_usd = p.total_cost_usd + excluded.total_cost_usd,
        response_time_total_ms = p.response_time_total_ms + excluded.response_time_total_ms,
        response_time_samples = p.response_time_samples + excluded.response_time_samples;
    DELETE FROM public.user_agent_conversations c USING unnest(p_users, p_agents) AS g (user_id, agent_id)
     WHERE (c.user_id, c.agent_id) = (g.user_id, g.agent_id);
END $$;
REVOKE ALL ON FUNCTION public.usage_retire_pairs(uuid[], uuid[]) FROM PUBLIC, anon, authenticated, service_role;

-- Children go with their pair, also when a user or agent is deleted by cascade. A statement trigger instead of
-- foreign keys: those would look the parent up again for every row that ingest inserts.
CREATE OR REPLACE FUNCTION public.user_agents_retire_pair() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.usage_retire_pairs(array_agg(g.user_id), array_agg(g.agent_id)) FROM gone g;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION public.user_agents_retire_pair() FROM PUBLIC, anon, authenticated, service_role;
CREATE OR REPLACE TRIGGER user_agents_retire_pair AFTER DELETE ON public.user_agents
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION public.user_agents_retire_pair();

-- What changed while the rest was kept aside. A pair whose row went meanwhile has ended its life, though it may have begun
-- another. The others get their columns back. An average that 3.0.0 changed is believed, and each use since is one of
-- it; what the counters say otherwise goes into the opening balance below. It can be done again: nothing else writes
-- these columns yet.
DO $lives$
DECLARE
    v_user uuid := '00000000-0000-0000-0000-000000000000';
    v_agent uuid := v_user;
    v_reached uuid := v_user;
    v_users uuid[];
    v_agents uuid[];
    v_chunk uuid[];
BEGIN
    IF to_regclass('public.user_agents_kept_4_0_0') IS NOT NULL THEN
        LOOP
            SELECT array_agg(p.user_id ORDER BY p.user_id, p.agent_id), array_agg(p.agent_id ORDER BY p.user_id, p.agent_id)
              INTO v_users, v_agents
              FROM (
                SELECT DISTINCT user_id, agent_id FROM public.usage_daily WHERE (user_id, agent_id) > (v_user, v_agent)
                 ORDER BY user_id, agent_id LIMIT 500
              ) p;
            EXIT WHEN v_users IS NULL;
            v_user := v_users[cardinality(v_users)];
            v_agent := v_agents[cardinality(v_agents)];
            PERFORM public.usage_retire_pairs(array_agg(p.user_id), array_agg(p.agent_id))
               FROM unnest(v_users, v_agents) AS p (user_id, agent_id)
              WHERE NOT EXISTS (
                SELECT FROM public.user_agents ua JOIN public.user_agents_kept_4_0_0 k USING (id, user_id, agent_id)
                 WHERE (ua.user_id, ua.agent_id) = (p.user_id, p.agent_id));
            COMMIT;
        END LOOP;
        LOOP
            v_chunk := ARRAY(
                SELECT id FROM public.user_agents_kept_4_0_0 WHERE id > v_reached ORDER BY id LIMIT 200);
            EXIT WHEN cardinality(v_chunk) = 0;
            v_reached := v_chunk[cardinality(v_chunk)];
            UPDATE public.user_agents ua
               SET response_time_total_ms = latency.total_ms, response_time_samples = latency.samples,
                   last_conversation_at = k.last_conversation_at
              FROM public.user_agents_kept_4_0_0 k
             CROSS JOIN LATERAL (
                SELECT k.response_time_samples + greatest(now_.usage_count - k.usage_count, 0) AS uses,
                       now_.avg_response_time_ms AS average
                  FROM public.user_agents now_ WHERE now_.id = k.id
             ) since
             CROSS JOIN LATERAL (
                SELECT CASE WHEN since.average IS NOT DISTINCT FROM k.avg_response_time_ms THEN k.response_time_total_ms
                            ELSE coalesce(since.average * since.uses, 0) END AS total_ms,
                       CASE WHEN since.average IS NOT DISTINCT FROM k.avg_response_time_ms THEN k.response_time_samples
                            WHEN since.average IS NULL THEN 0
                            ELSE since.uses END AS samples
             ) latency
             WHERE k.id = ANY (v_chunk) AND (ua.id, ua.user_id, ua.agent_id) = (k.id, k.user_id, k.agent_id)
               AND (ua.response_time_total_ms, ua.response_time_samples, ua.last_conversation_at)
                   IS DISTINCT FROM (latency.total_ms, latency.samples, k.last_conversation_at);
            COMMIT;
        END LOOP;
        DROP TABLE public.user_agents_kept_4_0_0;
    END IF;
    IF to_regclass('public.usage_entries_kept_4_0_0') IS NOT NULL THEN
        ALTER TABLE public.usage_entries_kept_4_0_0 RENAME TO usage_entries;
    END IF;
END
$lives$;

-- Every stream entry that was counted. It never decides whether an event counts (the ledger does); it tells a
-- redelivered entry from a new one, so that the books below add up whatever was delivered twice.
CREATE TABLE IF NOT EXISTS public.usage_entries (
    key uuid PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT now()
);
-- For forgetting the oldest ones. A batch has one time, so the index is small; BRIN would cost an insert as much
-- (measured: 1 microsecond an entry) and lose its order with the first reused page.
-- squawk-ignore require-concurrent-index-creation -- the table is empty
CREATE INDEX IF NOT EXISTS idx_usage_entries_seen_at ON public.usage_entries (seen_at);

ALTER TABLE public.usage_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.usage_daily ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.usage_retired_daily ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.user_agent_conversations ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.usage_entries ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.usage_intake ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.usage_dead_letters ENABLE ROW LEVEL SECURITY;
-- A platform's default privileges may have given service_role more than is meant.
REVOKE ALL ON public.usage_events, public.usage_daily, public.usage_retired_daily, public.user_agent_conversations,
    public.usage_entries, public.usage_intake, public.usage_dead_letters FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.usage_events, public.usage_daily, public.usage_retired_daily, public.user_agent_conversations,
    public.usage_entries, public.usage_intake, public.usage_dead_letters TO service_role;
REVOKE ALL ON SEQUENCE public.usage_dead_letters_id_seq FROM PUBLIC, anon, authenticated, service_role;

-- For a service_role that could not be given BYPASSRLS.
DO $policies$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['usage_events', 'usage_daily', 'usage_retired_daily', 'user_agent_conversations',
                                   'usage_entries', 'usage_intake', 'usage_dead_letters'] LOOP
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_catalog.pg_policy WHERE polrelid = format('public.%I', v_table)::regclass
        );
        EXECUTE format('CREATE POLICY %I ON public.%I FOR SELECT TO service_role USING (true)',
                       v_table || '_service_role', v_table);
    END LOOP;
END
$policies$;

-- Days, conversations and events are found by the pair, history by the id: a row that took another would leave them
-- behind. After the statement, so that row-level security speaks first. A client's upsert may name the same values.
CREATE OR REPLACE FUNCTION public.user_agents_forbid_pair_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE restrict_violation USING MESSAGE = 'a row of user_agents keeps its id, its user and its agent';
END $$;
REVOKE ALL ON FUNCTION public.user_agents_forbid_pair_change() FROM PUBLIC, anon, authenticated, service_role;
CREATE OR REPLACE TRIGGER user_agents_forbid_pair_change AFTER UPDATE OF id, user_id, agent_id ON public.user_agents
    FOR EACH ROW WHEN ((OLD.id, OLD.user_id, OLD.agent_id) IS DISTINCT FROM (NEW.id, NEW.user_id, NEW.agent_id))
    EXECUTE FUNCTION public.user_agents_forbid_pair_change();

-- Before the first events come: those that found no partition would all make it, and all but one fail. A week, so that
-- nothing is short until the periodic task comes.
DO $days$
BEGIN
    PERFORM public.usage_events_ensure_day((now() AT TIME ZONE 'UTC')::date + ahead) FROM generate_series(0, 7) AS ahead;
END
$days$;

-- The same door as in 3.0.0, but what comes in by it is in the ledger and the roll-up, too. The caller may not write
-- those, so the function is SECURITY DEFINER and asks itself what row-level security asked before: for whom?
CREATE OR REPLACE FUNCTION public.track_agent_usage(
    p_user_id uuid,
    p_agent_id uuid,
    p_success boolean DEFAULT true,
    p_tokens bigint DEFAULT 0,
    p_cost numeric DEFAULT 0,
    p_response_time integer DEFAULT NULL
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    v_caller pg_catalog.name := coalesce(nullif(current_setting('role', true), 'none'), session_user);
    v_day pg_catalog.date := (now() AT TIME ZONE 'UTC')::date;
    v_successes integer := CASE WHEN coalesce(p_success, true) THEN 1 ELSE 0 END;
    v_samples integer := CASE WHEN p_response_time IS NULL THEN 0 ELSE 1 END;
BEGIN
    IF p_user_id IS DISTINCT FROM auth.uid() AND v_caller <> current_user
       AND NOT pg_has_role(v_caller, 'service_role', 'MEMBER') THEN
        RAISE insufficient_privilege USING MESSAGE = 'track_agent_usage: this is not your user';
    END IF;
    -- The bounds of an event: nobody lowers what was counted, and NaN, greater than any number, adds up to nothing.
    IF least(p_tokens, p_cost, p_response_time) < 0 OR p_cost > 1000000 OR p_response_time > 86400000 THEN
        RAISE numeric_value_out_of_range USING MESSAGE = 'track_agent_usage: tokens, cost or time out of bounds';
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
        (response_time_total_ms, response_time_samples, avg_response_time_ms) = (
            SELECT s.total, s.samples, round(s.total::numeric / nullif(s.samples, 0))
              FROM (
                SELECT ua.response_time_total_ms + excluded.response_time_total_ms
                       + coalesce(ua.avg_response_time_ms, 0) * o.samples AS total,
                       ua.response_time_samples + excluded.response_time_samples + o.samples AS samples
                  FROM (
                    -- A row older than 4.0.0, its opening balance still to come: the average stands for its past.
                    SELECT CASE
                        WHEN ua.response_time_samples = 0 AND ua.avg_response_time_ms IS NOT NULL AND NOT EXISTS (
                            SELECT FROM public.usage_daily d
                             WHERE (d.user_id, d.agent_id) = (p_user_id, p_agent_id))
                        THEN ua.usage_count::bigint ELSE 0 END AS samples
                  ) o
              ) s
        ),
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

-- A call that began before the line above still counts past the ledger, and a row that it adds cannot be seen yet: wait
-- until every transaction of that time has ended. Nobody waits for this one meanwhile. Then nobody needs the right to
-- write counters any more: from here on people write what is theirs, and the counters are what the days add up to. A
-- statement that was allowed before may still be running, so wait again.
DO $older$
DECLARE
    v_older text[];
    v_patience timestamptz;
    v_columns text := 'id, user_id, agent_id, original_agent_id, is_user_copy, added_at, is_active, metadata,
        created_at, updated_at, custom_name, custom_description, custom_avatar, custom_color, custom_system_prompt,
        custom_temperature, custom_max_tokens, is_favorite, is_pinned, folder, tags, sort_order, display_position,
        user_rating, last_rating_at, archived_at, deleted_at, is_enabled, is_visible, status, settings, preferences,
        ui_config, source_details, share_settings, notification_settings, notifications_enabled, notes, quick_notes,
        source, is_shared, shared_with, team_id';
BEGIN
    FOR turn IN 1..2 LOOP
        SELECT array_agg(l.virtualxid) INTO v_older
          FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
         WHERE l.locktype = 'virtualxid' AND l.granted AND l.pid <> pg_backend_pid()
           -- Without a user: autovacuum.
           AND a.datname = current_database() AND a.usesysid IS NOT NULL;
        COMMIT;
        v_patience := clock_timestamp() + interval '5 seconds';
        WHILE EXISTS (
            SELECT FROM pg_catalog.pg_locks WHERE locktype = 'virtualxid' AND granted AND virtualxid = ANY (v_older)
        ) LOOP
            IF clock_timestamp() > v_patience THEN
                RAISE lock_not_available
                    USING MESSAGE = 'transactions older than the new track_agent_usage are still open';
            END IF;
            COMMIT;
            PERFORM pg_sleep(0.01);
        END LOOP;
        IF turn = 1 THEN
            REVOKE INSERT, UPDATE ON public.user_agents FROM authenticated;
            EXECUTE format('GRANT INSERT (%1$s), UPDATE (%1$s) ON public.user_agents TO authenticated', v_columns);
            COMMIT;
        END IF;
    END LOOP;
END
$older$;

-- What the counters hold beyond their days is the opening balance. Of the latency of the past the average is all that
-- is known; where an event came first, track_agent_usage has put it in already, so that total / samples is the average
-- at any moment. In chunks of locked rows; a row that somebody else holds is passed over and taken alone at the end, so
-- that nobody waits for a chunk that waits itself. Run again, it finds no difference and adds nothing.
DO $balance$
DECLARE
    v_reached uuid := '00000000-0000-0000-0000-000000000000';
    -- Behind this id the chunks begin: it is taken alone, too.
    v_passed_over uuid[] := ARRAY[v_reached];
    v_taken integer := 0;
    v_chunk uuid[];
    v_locked uuid[];
BEGIN
    LOOP
        v_chunk := ARRAY(SELECT id FROM public.user_agents WHERE id > v_reached ORDER BY id LIMIT 500);
        IF cardinality(v_chunk) > 0 THEN
            v_reached := v_chunk[cardinality(v_chunk)];
            -- What was never used and has no days is left alone. Its first event will be in both places.
            v_chunk := ARRAY(
                SELECT ua.id FROM public.user_agents ua
                 WHERE ua.id = ANY (v_chunk)
                   AND ((usage_count, message_count, conversation_count, success_count, error_count, total_tokens_used,
                         total_cost_usd) <> (0, 0, 0, 0, 0, 0, 0)
                        OR EXISTS (SELECT FROM public.usage_daily d
                                    WHERE (d.user_id, d.agent_id) = (ua.user_id, ua.agent_id))));
            v_locked := ARRAY(
                SELECT id FROM public.user_agents
                 WHERE id = ANY (v_chunk) FOR NO KEY UPDATE SKIP LOCKED);
            v_passed_over := v_passed_over || ARRAY(SELECT unnest(v_chunk) EXCEPT SELECT unnest(v_locked));
        ELSE
            EXIT WHEN v_taken = cardinality(v_passed_over);
            v_taken := v_taken + 1;
            SET LOCAL lock_timeout = '10s';
            v_locked := ARRAY(SELECT id FROM public.user_agents WHERE id = v_passed_over[v_taken] FOR NO KEY UPDATE);
        END IF;

        UPDATE public.user_agents
           SET response_time_total_ms = avg_response_time_ms::bigint * usage_count, response_time_samples = usage_count
         WHERE id = ANY (v_locked) AND response_time_samples = 0 AND avg_response_time_ms IS NOT NULL
           AND usage_count > 0;
        -- A call of 3.0.0's function that ended after one of 4.0.0's on the same row left no sample: it gets the average of
        -- the past, of which each use is one.
        UPDATE public.user_agents AS ua
           SET response_time_total_ms = ua.response_time_total_ms + past.missing_ms,
               response_time_samples = ua.response_time_samples + past.missing,
               avg_response_time_ms = round(
                   (ua.response_time_total_ms + past.missing_ms) / (ua.response_time_samples + past.missing))
          FROM (
            SELECT opening.id, uses - samples AS missing, round(total_ms / nullif(samples, 0) * (uses - samples)) AS missing_ms
              FROM (
                SELECT balanced.id,
                       balanced.usage_count - sum(days.usage_count) AS uses,
                       balanced.response_time_samples - sum(days.response_time_samples) AS samples,
                       balanced.response_time_total_ms - sum(days.response_time_total_ms) AS total_ms
                  FROM public.user_agents balanced JOIN public.usage_daily days USING (user_id, agent_id)
                 WHERE balanced.id = ANY (v_locked)
                 GROUP BY balanced.id
              ) opening
             WHERE samples > 0 AND uses > samples
          ) past
         WHERE ua.id = past.id;
        -- So did one on a row whose columns had come back already.
        UPDATE public.user_agents
           SET avg_response_time_ms = round(response_time_total_ms::numeric / response_time_samples)
         WHERE id = ANY (v_locked) AND response_time_samples > 0
           AND avg_response_time_ms IS DISTINCT FROM round(response_time_total_ms::numeric / response_time_samples);
        -- A statement of its own: it sees all that was committed before the rows were locked.
        INSERT INTO public.usage_daily AS d (
            user_id, agent_id, day, usage_count, message_count, conversation_count, success_count, error_count,
            total_tokens_used, total_cost_usd, response_time_total_ms, response_time_samples
        )
        SELECT ua.user_id, ua.agent_id, date '1970-01-01', ua.usage_count - s.usage_count,
               ua.message_count - s.message_count, ua.conversation_count - s.conversation_count,
               ua.success_count - s.success_count, ua.error_count - s.error_count,
               ua.total_tokens_used - s.total_tokens_used, ua.total_cost_usd - s.total_cost_usd,
               ua.response_time_total_ms - s.response_time_total_ms, ua.response_time_samples - s.response_time_samples
          FROM public.user_agents ua
         CROSS JOIN LATERAL (
            SELECT coalesce(sum(days.usage_count), 0) AS usage_count,
                   coalesce(sum(days.message_count), 0) AS message_count,
                   coalesce(sum(days.conversation_count), 0) AS conversation_count,
                   coalesce(sum(days.success_count), 0) AS success_count,
                   coalesce(sum(days.error_count), 0) AS error_count,
                   coalesce(sum(days.total_tokens_used), 0) AS total_tokens_used,
                   coalesce(sum(days.total_cost_usd), 0) AS total_cost_usd,
                   coalesce(sum(days.response_time_total_ms), 0) AS response_time_total_ms,
                   coalesce(sum(days.response_time_samples), 0) AS response_time_samples
              FROM public.usage_daily days
             WHERE days.user_id = ua.user_id AND days.agent_id = ua.agent_id
         ) s
         WHERE ua.id = ANY (v_locked)
           AND (ua.usage_count, ua.message_count, ua.conversation_count, ua.success_count, ua.error_count,
                ua.total_tokens_used, ua.total_cost_usd, ua.response_time_total_ms, ua.response_time_samples)
               <> (s.usage_count, s.message_count, s.conversation_count, s.success_count, s.error_count,
                   s.total_tokens_used, s.total_cost_usd, s.response_time_total_ms, s.response_time_samples)
        ON CONFLICT (user_id, agent_id, day) DO UPDATE SET
            usage_count = d.usage_count + excluded.usage_count,
            message_count = d.message_count + excluded.message_count,
            conversation_count = d.conversation_count + excluded.conversation_count,
            success_count = d.success_count + excluded.success_count,
            error_count = d.error_count + excluded.error_count,
            total_tokens_used = d.total_tokens_used + excluded.total_tokens_used,
            total_cost_usd = d.total_cost_usd + excluded.total_cost_usd,
            response_time_total_ms = d.response_time_total_ms + excluded.response_time_total_ms,
            response_time_samples = d.response_time_samples + excluded.response_time_samples;
        COMMIT;
    END LOOP;
END
$balance$;
