-- version: 4.2.0
-- transaction: off
-- lock_timeout: 100ms
-- squawk-disable-assume-in-transaction
--
-- What pricing an event again needs: the parts of its tokens that have prices of their own, and whose prices they are.
-- The columns have no default or a constant one, so no row is rewritten. Each statement can be repeated after a kill.
--
-- A rollback from 4.2.0 has renamed the columns of tables that had rows; they get their names back with their values.

-- Both tables in one transaction, since reconcile reads their rows as those of one table.
DO $totals$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['usage_daily', 'usage_retired_daily'] LOOP
        IF EXISTS (
            SELECT FROM pg_catalog.pg_attribute
             WHERE attrelid = format('public.%I', v_table)::regclass AND attname = 'reasoning_tokens_kept_4_2_0'
        ) THEN
            EXECUTE format('ALTER TABLE public.%I RENAME cached_input_tokens_kept_4_2_0 TO cached_input_tokens', v_table);
            EXECUTE format('ALTER TABLE public.%I RENAME cache_write_tokens_kept_4_2_0 TO cache_write_tokens', v_table);
            EXECUTE format('ALTER TABLE public.%I RENAME reasoning_tokens_kept_4_2_0 TO reasoning_tokens', v_table);
        END IF;
        EXECUTE format('ALTER TABLE public.%I ADD COLUMN IF NOT EXISTS cached_input_tokens bigint NOT NULL DEFAULT 0,'
                       ' ADD COLUMN IF NOT EXISTS cache_write_tokens bigint NOT NULL DEFAULT 0,'
                       ' ADD COLUMN IF NOT EXISTS reasoning_tokens bigint NOT NULL DEFAULT 0', v_table);
    END LOOP;
END
$totals$;

-- As in 4.0.0, with the new columns.
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
        input_tokens, output_tokens, total_tokens_used, total_cost_usd, response_time_total_ms, response_time_samples,
        cached_input_tokens, cache_write_tokens, reasoning_tokens
    )
    SELECT user_id, agent_id, day, usage_count, message_count, conversation_count, success_count, error_count,
           input_tokens, output_tokens, total_tokens_used, total_cost_usd, response_time_total_ms, response_time_samples,
           cached_input_tokens, cache_write_tokens, reasoning_tokens
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
        response_time_samples = p.response_time_samples + excluded.response_time_samples,
        cached_input_tokens = p.cached_input_tokens + excluded.cached_input_tokens,
        cache_write_tokens = p.cache_write_tokens + excluded.cache_write_tokens,
        reasoning_tokens = p.reasoning_tokens + excluded.reasoning_tokens;
    DELETE FROM public.user_agent_conversations c USING unnest(p_users, p_agents) AS g (user_id, agent_id)
     WHERE (c.user_id, c.agent_id) = (g.user_id, g.agent_id);
END $$;

-- What the function of 4.0.0 has retired since the rollback lacks the parts; the ledger has them, and still under the
-- names that the rollback gave them. Added, not set: a pair that is retired meanwhile has the same difference.
DO $retired$
DECLARE
    v_day date;
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute
         WHERE attrelid = 'public.usage_events'::regclass AND attname = 'reasoning_tokens_kept_4_2_0'
    ) THEN
        RETURN;
    END IF;
    FOR v_day IN SELECT DISTINCT day FROM public.usage_retired_daily LOOP
        WITH ledger AS (
            SELECT user_id, agent_id,
                   coalesce(sum(e.cached_input_tokens_kept_4_2_0), 0) AS cached_input_tokens,
                   coalesce(sum(e.cache_write_tokens_kept_4_2_0), 0) AS cache_write_tokens,
                   coalesce(sum(e.reasoning_tokens_kept_4_2_0), 0) AS reasoning_tokens
              FROM public.usage_events AS e JOIN public.usage_retired_daily AS p USING (user_id, agent_id)
             WHERE p.day = v_day AND e.type = 'usage' AND e.occurred_at >= v_day::timestamp AT TIME ZONE 'UTC'
               AND e.occurred_at < (v_day + 1)::timestamp AT TIME ZONE 'UTC'
             GROUP BY user_id, agent_id
        ), missing AS MATERIALIZED (
            SELECT user_id, agent_id,
                   l.cached_input_tokens - p.cached_input_tokens - coalesce(d.cached_input_tokens, 0) AS cached_input_tokens,
                   l.cache_write_tokens - p.cache_write_tokens - coalesce(d.cache_write_tokens, 0) AS cache_write_tokens,
                   l.reasoning_tokens - p.reasoning_tokens - coalesce(d.reasoning_tokens, 0) AS reasoning_tokens
              FROM ledger AS l JOIN public.usage_retired_daily AS p USING (user_id, agent_id)
              LEFT JOIN public.usage_daily AS d USING (user_id, agent_id, day)
             WHERE day = v_day
        )
        UPDATE public.usage_retired_daily AS p
           SET cached_input_tokens = p.cached_input_tokens + greatest(m.cached_input_tokens, 0),
               cache_write_tokens = p.cache_write_tokens + greatest(m.cache_write_tokens, 0),
               reasoning_tokens = p.reasoning_tokens + greatest(m.reasoning_tokens, 0)
          FROM missing AS m
         WHERE (p.day, p.user_id, p.agent_id) = (v_day, m.user_id, m.agent_id)
           AND greatest(m.cached_input_tokens, m.cache_write_tokens, m.reasoning_tokens) > 0;
        COMMIT;
    END LOOP;
END
$retired$;

DO $ledger$
BEGIN
    IF EXISTS (
        SELECT FROM pg_catalog.pg_attribute
         WHERE attrelid = 'public.usage_events'::regclass AND attname = 'reasoning_tokens_kept_4_2_0'
    ) THEN
        ALTER TABLE public.usage_events RENAME cached_input_tokens_kept_4_2_0 TO cached_input_tokens;
        ALTER TABLE public.usage_events RENAME cache_write_tokens_kept_4_2_0 TO cache_write_tokens;
        ALTER TABLE public.usage_events RENAME reasoning_tokens_kept_4_2_0 TO reasoning_tokens;
        ALTER TABLE public.usage_events RENAME provider_kept_4_2_0 TO provider;
    END IF;
    ALTER TABLE public.usage_events
        ADD COLUMN IF NOT EXISTS cached_input_tokens bigint,
        ADD COLUMN IF NOT EXISTS cache_write_tokens bigint,
        ADD COLUMN IF NOT EXISTS reasoning_tokens bigint,
        ADD COLUMN IF NOT EXISTS provider text;
END
$ledger$;

ANALYZE public.usage_daily, public.usage_retired_daily;

DO $comments$
DECLARE
    v_table text;
BEGIN
    COMMENT ON COLUMN public.usage_events.cached_input_tokens IS 'Number of the input tokens that the provider read from its cache; NULL: not reported.';
    COMMENT ON COLUMN public.usage_events.cache_write_tokens IS 'Number of the input tokens that the provider wrote to its cache; NULL: not reported.';
    COMMENT ON COLUMN public.usage_events.reasoning_tokens IS 'Number of the output tokens that the model spent on reasoning; NULL: not reported.';
    COMMENT ON COLUMN public.usage_events.provider IS 'Name of the provider of the model; NULL: not reported.';
    FOREACH v_table IN ARRAY ARRAY['usage_daily', 'usage_retired_daily'] LOOP
        EXECUTE format('COMMENT ON COLUMN public.%I.cached_input_tokens IS %L', v_table,
                       'Number of the input tokens that providers read from their caches, as far as reported.');
        EXECUTE format('COMMENT ON COLUMN public.%I.cache_write_tokens IS %L', v_table,
                       'Number of the input tokens that providers wrote to their caches, as far as reported.');
        EXECUTE format('COMMENT ON COLUMN public.%I.reasoning_tokens IS %L', v_table,
                       'Number of the output tokens that models spent on reasoning, as far as reported.');
    END LOOP;
END
$comments$;
