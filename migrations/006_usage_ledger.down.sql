-- version: 4.0.0
-- transaction: off
--
-- One statement, so that nothing is counted between its parts.
DO $down$
BEGIN
    -- As it is in 3.0.0; the ledger that 4.0.0's writes is about to go.
CREATE OR REPLACE FUNCTION public.track_agent_usage(
    p_user_id uuid,
    p_agent_id uuid,
    p_success boolean DEFAULT true,
    p_tokens bigint DEFAULT 0,
    p_cost numeric DEFAULT 0,
    p_response_time integer DEFAULT NULL
) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $body$
    INSERT INTO public.user_agents AS ua (
        user_id, agent_id, usage_count, message_count, success_count, error_count, total_tokens_used, total_cost_usd,
        avg_response_time_ms, first_used_at, last_used_at
    )
    VALUES (
        p_user_id, p_agent_id, 1, 1,
        CASE WHEN coalesce(p_success, true) THEN 1 ELSE 0 END, CASE WHEN coalesce(p_success, true) THEN 0 ELSE 1 END,
        coalesce(p_tokens, 0), coalesce(p_cost, 0), p_response_time, now(), now()
    )
    ON CONFLICT (user_id, agent_id) DO UPDATE SET
        usage_count = ua.usage_count + 1,
        message_count = ua.message_count + 1,
        success_count = ua.success_count + excluded.success_count,
        error_count = ua.error_count + excluded.error_count,
        total_tokens_used = ua.total_tokens_used + excluded.total_tokens_used,
        total_cost_usd = ua.total_cost_usd + excluded.total_cost_usd,
        avg_response_time_ms = CASE
            WHEN excluded.avg_response_time_ms IS NULL THEN ua.avg_response_time_ms
            WHEN ua.avg_response_time_ms IS NULL THEN excluded.avg_response_time_ms
            ELSE round(
                (ua.avg_response_time_ms::numeric * ua.usage_count + excluded.avg_response_time_ms)
                / (ua.usage_count + 1)
            )
        END,
        first_used_at = coalesce(ua.first_used_at, excluded.first_used_at),
        last_used_at = greatest(ua.last_used_at, excluded.last_used_at)
$body$;

    -- Its caller writes the counters. To revoke a right to the table revokes it for single columns, too.
    REVOKE INSERT, UPDATE ON public.user_agents FROM authenticated;
    GRANT INSERT, UPDATE ON public.user_agents TO authenticated;

    -- IF EXISTS: the way up may have stopped anywhere.
    DROP TRIGGER IF EXISTS user_agents_keep_pair ON public.user_agents;
    DROP FUNCTION IF EXISTS public.user_agents_keep_pair();
    DROP TRIGGER IF EXISTS user_agents_forget_children ON public.user_agents;
    DROP FUNCTION IF EXISTS public.user_agents_forget_children(), public.usage_end_lives(uuid[], uuid[]);
    DROP TABLE IF EXISTS public.usage_dead_letters, public.usage_intake, public.usage_entries,
        public.user_agent_conversations, public.usage_past_daily, public.usage_daily, public.usage_events;
    DROP FUNCTION IF EXISTS public.usage_events_ensure_day(date);
    ALTER TABLE public.user_agents
        DROP COLUMN IF EXISTS response_time_total_ms,
        DROP COLUMN IF EXISTS response_time_samples,
        DROP COLUMN IF EXISTS last_conversation_at;
END
$down$;
