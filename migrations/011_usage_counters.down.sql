-- squawk-disable-assume-in-transaction
--
-- The columns that 3.0.0 does not have are kept aside for the next upgrade, readable by the owner only. The copy also
-- records which rows existed: a row that is deleted later is deleted from it, too, so that the next upgrade retires its
-- days. A trigger keeps the copy current while it is filled in chunks.
DO $begin$
BEGIN
    IF to_regclass('public.user_agents_kept_4_0_0') IS NOT NULL
        -- An upgrade that stopped before it added the columns: there is nothing to keep.
        OR NOT EXISTS (
            SELECT FROM pg_catalog.pg_attribute
             WHERE attrelid = 'public.user_agents'::regclass AND attname = 'last_conversation_at' AND NOT attisdropped
        )
    THEN
        RETURN;
    END IF;
    CREATE TABLE public.user_agents_kept_4_0_0 (
        id uuid PRIMARY KEY REFERENCES public.user_agents (id) ON DELETE CASCADE,
        user_id uuid NOT NULL,
        agent_id uuid NOT NULL,
        usage_count bigint,
        avg_response_time_ms bigint,
        response_time_total_ms bigint,
        response_time_samples bigint,
        last_conversation_at timestamptz
    );
    ALTER TABLE public.user_agents_kept_4_0_0 ENABLE ROW LEVEL SECURITY;
    REVOKE ALL ON public.user_agents_kept_4_0_0 FROM PUBLIC, anon, authenticated, service_role;

    -- SECURITY DEFINER: roles that write user_agents have no right on the copy.
    CREATE FUNCTION public.user_agents_keep_4_0_0() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
    BEGIN
        INSERT INTO public.user_agents_kept_4_0_0
        VALUES (NEW.id, NEW.user_id, NEW.agent_id, NEW.usage_count, NEW.avg_response_time_ms,
                NEW.response_time_total_ms, NEW.response_time_samples, NEW.last_conversation_at)
        ON CONFLICT (id) DO UPDATE SET
            usage_count = excluded.usage_count,
            avg_response_time_ms = excluded.avg_response_time_ms,
            response_time_total_ms = excluded.response_time_total_ms,
            response_time_samples = excluded.response_time_samples,
            last_conversation_at = excluded.last_conversation_at;
        RETURN NULL;
    END
    $body$;
    REVOKE ALL ON FUNCTION public.user_agents_keep_4_0_0() FROM PUBLIC, anon, authenticated, service_role;

    CREATE TRIGGER user_agents_keep_4_0_0 AFTER INSERT OR UPDATE ON public.user_agents
        FOR EACH ROW EXECUTE FUNCTION public.user_agents_keep_4_0_0();
END
$begin$;

DO $copy$
DECLARE
    v_reached uuid := '00000000-0000-0000-0000-000000000000';
    v_upper_end uuid;
BEGIN
    -- Without the trigger the copy is complete.
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgname = 'user_agents_keep_4_0_0') THEN
        RETURN;
    END IF;
    LOOP
        SELECT (array_agg(id ORDER BY id DESC))[1] INTO v_upper_end
        FROM (SELECT id FROM public.user_agents WHERE id >= v_reached ORDER BY id LIMIT 200) AS chunk;
        EXIT WHEN v_upper_end IS NULL;
        INSERT INTO public.user_agents_kept_4_0_0
            SELECT id, user_id, agent_id, usage_count, avg_response_time_ms, response_time_total_ms,
                   response_time_samples, last_conversation_at
              FROM public.user_agents WHERE id BETWEEN v_reached AND v_upper_end
            -- A row deleted at this moment is left out instead of failing the foreign key.
            FOR KEY SHARE
            ON CONFLICT DO NOTHING;
        COMMIT;
        EXIT WHEN v_upper_end = v_reached;
        v_reached := v_upper_end;
    END LOOP;
END
$copy$;

-- One statement, so that no call is counted between the last change of the copy and the function of 3.0.0.
DO $down$
BEGIN
    -- Calls that have written the ledger end first. Those that wait here fail as a whole: the columns are gone.
    LOCK TABLE public.usage_events IN SHARE MODE;
    -- As in 3.0.0.
CREATE OR REPLACE FUNCTION public.track_agent_usage(
    p_user_id uuid,
    p_agent_id uuid,
    p_success boolean DEFAULT true,
    p_tokens_used bigint DEFAULT 0,
    p_cost_usd numeric DEFAULT 0,
    p_response_time_ms integer DEFAULT NULL
) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $body$
    INSERT INTO public.user_agents AS ua (
        user_id, agent_id, usage_count, message_count, success_count, error_count, total_tokens_used, total_cost_usd,
        avg_response_time_ms, first_used_at, last_used_at
    )
    VALUES (
        p_user_id, p_agent_id, 1, 1,
        CASE WHEN coalesce(p_success, true) THEN 1 ELSE 0 END, CASE WHEN coalesce(p_success, true) THEN 0 ELSE 1 END,
        coalesce(p_tokens_used, 0), coalesce(p_cost_usd, 0), p_response_time_ms, now(), now()
    )
    ON CONFLICT (user_id, agent_id) DO UPDATE SET
        usage_count = coalesce(ua.usage_count, 0) + 1,
        message_count = coalesce(ua.message_count, 0) + 1,
        success_count = coalesce(ua.success_count, 0) + excluded.success_count,
        error_count = coalesce(ua.error_count, 0) + excluded.error_count,
        total_tokens_used = coalesce(ua.total_tokens_used, 0) + excluded.total_tokens_used,
        total_cost_usd = coalesce(ua.total_cost_usd, 0) + excluded.total_cost_usd,
        avg_response_time_ms = CASE
            WHEN excluded.avg_response_time_ms IS NULL THEN ua.avg_response_time_ms
            WHEN ua.avg_response_time_ms IS NULL THEN excluded.avg_response_time_ms
            ELSE round(
                (ua.avg_response_time_ms::numeric * coalesce(ua.usage_count, 0) + excluded.avg_response_time_ms)
                / (coalesce(ua.usage_count, 0) + 1)
            )
        END,
        first_used_at = coalesce(ua.first_used_at, excluded.first_used_at),
        last_used_at = greatest(ua.last_used_at, excluded.last_used_at)
$body$;

    -- IF EXISTS: the upgrade may have stopped after any statement.
    DROP TRIGGER IF EXISTS user_agents_keep_4_0_0 ON public.user_agents;
    DROP FUNCTION IF EXISTS public.user_agents_keep_4_0_0();
    -- Without days and conversations there is nothing to retire, and averages stand for latencies as before 4.0.0.
    IF NOT EXISTS (SELECT FROM public.usage_daily) AND NOT EXISTS (SELECT FROM public.user_agent_conversations) THEN
        DROP TABLE IF EXISTS public.user_agents_kept_4_0_0;
    END IF;
    ALTER TABLE public.user_agents
        DROP COLUMN IF EXISTS response_time_total_ms,
        DROP COLUMN IF EXISTS response_time_samples,
        DROP COLUMN IF EXISTS last_conversation_at;
END
$down$;
