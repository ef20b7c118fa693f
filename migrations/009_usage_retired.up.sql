-- version: 4.0.0
-- lock_timeout: 100ms
--
-- What remains of a pair whose row is deleted. A pair that is purged and used again starts with new counters, while the
-- ledger keeps the events of the deleted row until their day is dropped. The totals of those days are kept here: for each
-- pair and retained day, the totals of the ledger equal usage_daily plus usage_retired_daily.

-- A rollback from 4.0.0 kept the rows under another name.
-- squawk-ignore renaming-table -- nothing uses the kept table
ALTER TABLE IF EXISTS public.usage_retired_daily_kept_4_0_0 RENAME TO usage_retired_daily;
CREATE TABLE IF NOT EXISTS public.usage_retired_daily (
    LIKE public.usage_daily INCLUDING DEFAULTS,
    PRIMARY KEY (day, user_id, agent_id)
);
ALTER TABLE public.usage_retired_daily ENABLE ROW LEVEL SECURITY;
-- A platform's default privileges may have granted more than SELECT.
REVOKE ALL ON public.usage_retired_daily FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.usage_retired_daily TO service_role;
-- For a service_role that could not be given BYPASSRLS.
CREATE POLICY usage_retired_daily_service_role ON public.usage_retired_daily FOR SELECT TO service_role USING (true);

-- Moves the days of pairs that have no row any more, as far as the ledger still has those days, and deletes their
-- conversations.
CREATE FUNCTION public.usage_retire_pairs(p_users uuid[], p_agents uuid[]) RETURNS void
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
REVOKE ALL ON FUNCTION public.usage_retire_pairs(uuid[], uuid[]) FROM PUBLIC, anon, authenticated, service_role;

CREATE FUNCTION public.user_agents_retire_pair() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM public.usage_retire_pairs(array_agg(g.user_id), array_agg(g.agent_id)) FROM gone g;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION public.user_agents_retire_pair() FROM PUBLIC, anon, authenticated, service_role;

CREATE FUNCTION public.user_agents_forbid_pair_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE restrict_violation USING MESSAGE = 'a row of user_agents keeps its id, its user and its agent';
END $$;
REVOKE ALL ON FUNCTION public.user_agents_forbid_pair_change() FROM PUBLIC, anon, authenticated, service_role;

-- Before the statements that lock user_agents.
DO $comments$
DECLARE
    v_column text;
BEGIN
    COMMENT ON TABLE public.usage_retired_daily IS 'Totals per UTC day of pairs whose row was deleted, moved here from usage_daily by a trigger; kept as long as the ledger keeps the day.';
    -- The columns mean what they mean in the roll-up.
    FOR v_column IN
        SELECT attname FROM pg_catalog.pg_attribute
        WHERE attrelid = 'public.usage_retired_daily'::regclass AND attnum > 0 AND NOT attisdropped
    LOOP
        EXECUTE format('COMMENT ON COLUMN public.usage_retired_daily.%I IS %L', v_column, (
            SELECT col_description(attrelid, attnum) FROM pg_catalog.pg_attribute
            WHERE attrelid = 'public.usage_daily'::regclass AND attname = v_column));
    END LOOP;
    COMMENT ON COLUMN public.usage_retired_daily.conversation_count IS 'Number of conversations first seen on this day''s events.';
    COMMENT ON INDEX public.usage_retired_daily_pkey IS 'Finds the retired totals of a day and pair.';
    COMMENT ON POLICY usage_retired_daily_service_role ON public.usage_retired_daily IS 'A service_role without BYPASSRLS reads every retired total.';
    COMMENT ON FUNCTION public.usage_retire_pairs IS 'Moves the days of pairs without a row to usage_retired_daily, as far as the ledger has them, and deletes their conversations.';
    COMMENT ON FUNCTION public.user_agents_retire_pair IS 'Trigger function: retires the pairs whose rows a statement deleted.';
    COMMENT ON FUNCTION public.user_agents_forbid_pair_change IS 'Trigger function: refuses to change the id, the user or the agent of a row.';
END
$comments$;

-- What locks user_agents comes last. Days and conversations follow their row, also when a user or agent is deleted by
-- cascade. A statement trigger instead of foreign keys, which would look up the parent for every row that ingest inserts.
CREATE TRIGGER user_agents_retire_pair AFTER DELETE ON public.user_agents
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION public.user_agents_retire_pair();
-- Days, conversations and events are found by the pair, history by the id: a row that changed them would leave those
-- behind. AFTER, so that row-level security is checked first. A client's upsert may name the same values.
CREATE TRIGGER user_agents_forbid_pair_change AFTER UPDATE OF id, user_id, agent_id ON public.user_agents
    FOR EACH ROW WHEN (OLD.id IS DISTINCT FROM NEW.id OR OLD.user_id IS DISTINCT FROM NEW.user_id OR OLD.agent_id IS DISTINCT FROM NEW.agent_id)
    EXECUTE FUNCTION public.user_agents_forbid_pair_change();
