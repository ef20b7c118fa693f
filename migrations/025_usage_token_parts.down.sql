-- squawk-disable-assume-in-transaction
--
-- The columns of tables that have rows are kept under other names for the next upgrade, which copies no row: a ledger has
-- hundreds of millions. Until then they hold what they held; new rows have NULL or 0 in them.

-- IF: the upgrade or this rollback may have stopped after any statement.
DO $ledger$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute
         WHERE attrelid = 'public.usage_events'::regclass AND attname = 'reasoning_tokens'
    ) THEN
        RETURN;
    END IF;
    -- No batch may commit between the check for rows and the drop.
    LOCK TABLE public.usage_events IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM public.usage_events) THEN
        ALTER TABLE public.usage_events RENAME cached_input_tokens TO cached_input_tokens_kept_4_2_0;
        ALTER TABLE public.usage_events RENAME cache_write_tokens TO cache_write_tokens_kept_4_2_0;
        ALTER TABLE public.usage_events RENAME reasoning_tokens TO reasoning_tokens_kept_4_2_0;
        ALTER TABLE public.usage_events RENAME provider TO provider_kept_4_2_0;
    ELSE
        ALTER TABLE public.usage_events
            DROP COLUMN cached_input_tokens,
            DROP COLUMN cache_write_tokens,
            DROP COLUMN reasoning_tokens,
            DROP COLUMN provider;
    END IF;
END
$ledger$;

-- As in 4.0.0.
CREATE OR REPLACE FUNCTION public.usage_retire_pairs(p_users uuid[], p_agents uuid[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    WITH retired AS (
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
      FROM retired
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

-- Both tables in one transaction, since reconcile reads their rows as those of one table.
DO $totals$
DECLARE
    v_table text;
    v_is_kept boolean;
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute
         WHERE attrelid = 'public.usage_daily'::regclass AND attname = 'reasoning_tokens'
    ) THEN
        RETURN;
    END IF;
    LOCK TABLE public.usage_daily, public.usage_retired_daily IN ACCESS EXCLUSIVE MODE;
    v_is_kept := EXISTS (SELECT FROM public.usage_daily) OR EXISTS (SELECT FROM public.usage_retired_daily);
    FOREACH v_table IN ARRAY ARRAY['usage_daily', 'usage_retired_daily'] LOOP
        IF v_is_kept THEN
            EXECUTE format('ALTER TABLE public.%I RENAME cached_input_tokens TO cached_input_tokens_kept_4_2_0', v_table);
            EXECUTE format('ALTER TABLE public.%I RENAME cache_write_tokens TO cache_write_tokens_kept_4_2_0', v_table);
            EXECUTE format('ALTER TABLE public.%I RENAME reasoning_tokens TO reasoning_tokens_kept_4_2_0', v_table);
        ELSE
            EXECUTE format('ALTER TABLE public.%I DROP COLUMN cached_input_tokens, DROP COLUMN cache_write_tokens,'
                           ' DROP COLUMN reasoning_tokens', v_table);
        END IF;
    END LOOP;
END
$totals$;
