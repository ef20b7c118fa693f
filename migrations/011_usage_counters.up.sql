-- version: 4.0.0
-- transaction: off
-- lock_timeout: 100ms
-- squawk-disable-assume-in-transaction
-- squawk-ignore-file prefer-robust-stmts -- what has no IF NOT EXISTS changes nothing when it is repeated
--
-- The counters of user_agents agree with the ledger: three more columns, and track_agent_usage writes ledger and roll-up.
-- Each statement is short, or locks few rows at a time, and can be repeated after a kill.

-- A rollback that stopped before it dropped the columns left the current values in them.
DO $stopped$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgname = 'user_agents_keep_4_0_0') THEN
        DROP TRIGGER user_agents_keep_4_0_0 ON public.user_agents;
        DROP FUNCTION public.user_agents_keep_4_0_0();
        DROP TABLE public.user_agents_kept_4_0_0;
    END IF;
END
$stopped$;

-- Constant defaults are stored in the catalogue: no row is rewritten.
ALTER TABLE public.user_agents
    ADD COLUMN IF NOT EXISTS response_time_total_ms bigint DEFAULT 0,
    ADD COLUMN IF NOT EXISTS response_time_samples bigint DEFAULT 0,
    -- Time of the newest event with a conversation. Without it the order of arrival would decide last_conversation_id.
    ADD COLUMN IF NOT EXISTS last_conversation_at timestamptz;

-- Restores what a rollback kept, with the changes since then. The days of a pair whose row was deleted are retired, even
-- if the pair has a new row. The other rows get their columns back. If 3.0.0 changed the average, the average is
-- trusted, and each use since then counts as one sample; other differences go into the opening balance, in
-- 013. Can be repeated, because nothing else writes these columns yet.
DO $restore$
DECLARE
    v_user uuid := '00000000-0000-0000-0000-000000000000';
    v_agent uuid := v_user;
    v_reached uuid := v_user;
    v_users uuid[];
    v_agents uuid[];
    v_chunk uuid[];
BEGIN
    IF to_regclass('public.user_agents_kept_4_0_0') IS NULL THEN
        RETURN;
    END IF;
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
            SELECT coalesce(k.response_time_samples, 0)
                   + greatest(coalesce(u.usage_count, 0) - coalesce(k.usage_count, 0), 0) AS uses,
                   u.avg_response_time_ms AS average
              FROM public.user_agents u WHERE u.id = k.id
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
END
$restore$;

-- The signature of 3.0.0, but a call is also recorded in the ledger and the roll-up. The caller may not write those, so
-- the function is SECURITY DEFINER and itself checks what row-level security checked before: whose usage it is.
CREATE OR REPLACE FUNCTION public.track_agent_usage(
    p_user_id uuid,
    p_agent_id uuid,
    p_success boolean DEFAULT true,
    p_tokens_used bigint DEFAULT 0,
    p_cost_usd numeric DEFAULT 0,
    p_response_time_ms integer DEFAULT NULL
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    v_caller pg_catalog.name := coalesce(nullif(current_setting('role', true), 'none'), session_user);
    v_day pg_catalog.date := (now() AT TIME ZONE 'UTC')::date;
    v_successes integer := CASE WHEN coalesce(p_success, true) THEN 1 ELSE 0 END;
    v_samples integer := CASE WHEN p_response_time_ms IS NULL THEN 0 ELSE 1 END;
BEGIN
    IF p_user_id IS DISTINCT FROM auth.uid() AND v_caller <> current_user
       AND NOT pg_has_role(v_caller, 'service_role', 'MEMBER') THEN
        RAISE insufficient_privilege USING MESSAGE = 'track_agent_usage: this is not your user';
    END IF;
    -- The bounds of an event. They exclude negative values and NaN, which is greater than any number.
    IF least(p_tokens_used, p_cost_usd, p_response_time_ms) < 0 OR p_tokens_used > 1000000000000 OR p_cost_usd > 1000000
       OR p_response_time_ms > 86400000 THEN
        RAISE numeric_value_out_of_range USING MESSAGE = 'track_agent_usage: tokens, cost or time out of bounds';
    END IF;
    PERFORM public.usage_events_ensure_day(v_day);
    INSERT INTO public.usage_events (event_id, occurred_at, type, user_id, agent_id, messages, input_tokens,
                                     output_tokens, tokens, cost_usd, response_time_ms, success)
    VALUES (gen_random_uuid(), now(), 'usage', p_user_id, p_agent_id, 1, 0, 0, coalesce(p_tokens_used, 0), p_cost_usd,
            p_response_time_ms, v_successes = 1);
    INSERT INTO public.user_agents AS ua (
        user_id, agent_id, usage_count, message_count, success_count, error_count, total_tokens_used, total_cost_usd,
        response_time_total_ms, response_time_samples, avg_response_time_ms, first_used_at, last_used_at
    )
    VALUES (
        p_user_id, p_agent_id, 1, 1, v_successes, 1 - v_successes, coalesce(p_tokens_used, 0), coalesce(p_cost_usd, 0),
        coalesce(p_response_time_ms, 0), v_samples, p_response_time_ms, now(), now()
    )
    ON CONFLICT (user_id, agent_id) DO UPDATE SET
        usage_count = coalesce(ua.usage_count, 0) + 1,
        message_count = coalesce(ua.message_count, 0) + 1,
        success_count = coalesce(ua.success_count, 0) + excluded.success_count,
        error_count = coalesce(ua.error_count, 0) + excluded.error_count,
        total_tokens_used = coalesce(ua.total_tokens_used, 0) + excluded.total_tokens_used,
        total_cost_usd = coalesce(ua.total_cost_usd, 0) + excluded.total_cost_usd,
        (response_time_total_ms, response_time_samples, avg_response_time_ms) = (
            SELECT s.total, s.samples, round(s.total::numeric / nullif(s.samples, 0))
              FROM (
                SELECT coalesce(ua.response_time_total_ms, 0) + excluded.response_time_total_ms
                       + coalesce(ua.avg_response_time_ms, 0) * o.samples AS total,
                       coalesce(ua.response_time_samples, 0) + excluded.response_time_samples + o.samples AS samples
                  FROM (
                    -- A row from before 4.0.0 without its opening balance: the average stands for past latencies.
                    SELECT CASE
                        WHEN coalesce(ua.response_time_samples, 0) = 0 AND ua.avg_response_time_ms IS NOT NULL AND NOT EXISTS (
                            SELECT FROM public.usage_daily d
                             WHERE (d.user_id, d.agent_id) = (p_user_id, p_agent_id))
                        THEN coalesce(ua.usage_count, 0)::bigint ELSE 0 END AS samples
                  ) o
              ) s
        ),
        first_used_at = least(ua.first_used_at, excluded.first_used_at),
        last_used_at = greatest(ua.last_used_at, excluded.last_used_at)
    -- IS NOT TRUE: NULL counts as 0.
    WHERE (
        ua.usage_count = 2147483647
        OR greatest(ua.message_count, ua.success_count, ua.error_count, ua.response_time_samples) = 9223372036854775807
        OR ua.total_tokens_used > 9223372036854775807 - excluded.total_tokens_used
        OR ua.response_time_total_ms > 9223372036854775807 - excluded.response_time_total_ms
        OR ua.total_cost_usd + excluded.total_cost_usd >= 10000000000
    ) IS NOT TRUE;
    IF NOT FOUND THEN
        RAISE numeric_value_out_of_range USING
            MESSAGE = 'track_agent_usage: usage_count or another counter of this pair would exceed its type';
    END IF;
    INSERT INTO public.usage_daily AS d (
        user_id, agent_id, day, usage_count, message_count, success_count, error_count, total_tokens_used,
        total_cost_usd, response_time_total_ms, response_time_samples
    )
    VALUES (
        p_user_id, p_agent_id, v_day, 1, 1, v_successes, 1 - v_successes, coalesce(p_tokens_used, 0), coalesce(p_cost_usd, 0),
        coalesce(p_response_time_ms, 0), v_samples
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
-- Where somebody dropped the function of 3.0.0, this is a new one, and PostgreSQL lets everybody execute it.
DO $execute$
BEGIN
    REVOKE ALL ON FUNCTION public.track_agent_usage(uuid, uuid, boolean, bigint, numeric, integer) FROM PUBLIC, anon;
    GRANT EXECUTE ON FUNCTION public.track_agent_usage(uuid, uuid, boolean, bigint, numeric, integer)
        TO authenticated, service_role;
END
$execute$;

-- Changes no row and blocks no client.
DO $comments$
BEGIN
    COMMENT ON COLUMN public.user_agents.response_time_total_ms IS 'Sum of the reported response times in milliseconds; written by the workers.';
    COMMENT ON COLUMN public.user_agents.response_time_samples IS 'Number of uses that reported a response time; written by the workers.';
    COMMENT ON COLUMN public.user_agents.last_conversation_at IS 'Time of the newest event that has a conversation; written by the workers.';
END
$comments$;
