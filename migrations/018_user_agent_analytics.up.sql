-- version: 4.0.0
-- transaction: off
-- lock_timeout: 100ms
-- squawk-disable-assume-in-transaction
-- squawk-ignore-file require-concurrent-index-creation -- nobody may read the relation before the last statement
-- squawk-ignore-file prefer-robust-stmts -- what has no IF NOT EXISTS changes nothing when it is repeated
--
-- Totals, recent windows and ranks of every row that is not deleted. Totals are the counters, which are the sums of all
-- days; the windows come from the daily roll-up, so that a refresh costs as much after years as on the first day. Windows
-- are whole UTC days including the current one: sums of the ledger would include deleted rows of the same pair, and
-- windows in hours would change without a new event.
--
-- Filled by a statement of its own, which holds nothing but the view and the locks of a SELECT, before anybody may read
-- it: reading an unpopulated view is an error. Each statement can be repeated after a kill.
CREATE MATERIALIZED VIEW IF NOT EXISTS public.user_agent_analytics WITH (autovacuum_vacuum_cost_limit = 2000) AS
WITH live AS (
    SELECT user_id, agent_id, coalesce(usage_count, 0) AS usage_count, coalesce(message_count, 0) AS message_count,
           coalesce(success_count, 0) AS success_count, coalesce(error_count, 0) AS error_count,
           coalesce(total_tokens_used, 0) AS total_tokens_used, coalesce(total_cost_usd, 0) AS total_cost_usd,
           avg_response_time_ms, last_used_at
      FROM public.user_agents
     WHERE deleted_at IS NULL
), popularity AS (
    SELECT agent_id, rank() OVER (ORDER BY sum(usage_count) DESC) AS agent_rank
      FROM live
     GROUP BY agent_id
), recent AS (
    SELECT user_id, agent_id,
           sum(usage_count) FILTER (WHERE day >= (now() AT TIME ZONE 'UTC')::date) AS usage_count_1d,
           sum(total_tokens_used) FILTER (WHERE day >= (now() AT TIME ZONE 'UTC')::date) AS total_tokens_used_1d,
           sum(total_cost_usd) FILTER (WHERE day >= (now() AT TIME ZONE 'UTC')::date) AS total_cost_usd_1d,
           sum(usage_count) FILTER (WHERE day >= (now() AT TIME ZONE 'UTC')::date - 6) AS usage_count_7d,
           sum(total_tokens_used) FILTER (WHERE day >= (now() AT TIME ZONE 'UTC')::date - 6) AS total_tokens_used_7d,
           sum(total_cost_usd) FILTER (WHERE day >= (now() AT TIME ZONE 'UTC')::date - 6) AS total_cost_usd_7d,
           sum(usage_count) AS usage_count_30d,
           sum(total_tokens_used) AS total_tokens_used_30d,
           sum(total_cost_usd) AS total_cost_usd_30d,
           sum(success_count) AS success_count_30d,
           sum(error_count) AS error_count_30d,
           sum(response_time_total_ms) AS response_time_total_ms_30d,
           sum(response_time_samples) AS response_time_samples_30d
      FROM public.usage_daily
     WHERE day >= (now() AT TIME ZONE 'UTC')::date - 29
     GROUP BY user_id, agent_id
)
SELECT live.user_id,
       live.agent_id,
       live.usage_count::bigint AS usage_count,
       live.message_count,
       live.success_count,
       live.error_count,
       round(100.0 * live.success_count / nullif(live.success_count + live.error_count, 0), 2) AS success_rate_percent,
       live.total_tokens_used,
       live.total_cost_usd::numeric(20, 10) AS total_cost_usd,
       live.avg_response_time_ms,
       live.last_used_at,
       coalesce(recent.usage_count_1d, 0)::bigint AS usage_count_1d,
       coalesce(recent.total_tokens_used_1d, 0)::bigint AS total_tokens_used_1d,
       coalesce(recent.total_cost_usd_1d, 0)::numeric(20, 10) AS total_cost_usd_1d,
       coalesce(recent.usage_count_7d, 0)::bigint AS usage_count_7d,
       coalesce(recent.total_tokens_used_7d, 0)::bigint AS total_tokens_used_7d,
       coalesce(recent.total_cost_usd_7d, 0)::numeric(20, 10) AS total_cost_usd_7d,
       coalesce(recent.usage_count_30d, 0)::bigint AS usage_count_30d,
       coalesce(recent.total_tokens_used_30d, 0)::bigint AS total_tokens_used_30d,
       coalesce(recent.total_cost_usd_30d, 0)::numeric(20, 10) AS total_cost_usd_30d,
       round(
           100.0 * recent.success_count_30d / nullif(recent.success_count_30d + recent.error_count_30d, 0), 2
       ) AS success_rate_percent_30d,
       round(
           recent.response_time_total_ms_30d / nullif(recent.response_time_samples_30d, 0)
       )::integer AS avg_response_time_ms_30d,
       rank() OVER (PARTITION BY live.user_id ORDER BY live.usage_count DESC) AS user_rank,
       popularity.agent_rank
  FROM live
  JOIN popularity ON popularity.agent_id = live.agent_id
  LEFT JOIN recent ON recent.user_id = live.user_id AND recent.agent_id = live.agent_id
WITH NO DATA;

-- REFRESH CONCURRENTLY requires it, and it finds the rows of a user.
CREATE UNIQUE INDEX IF NOT EXISTS user_agent_analytics_key ON public.user_agent_analytics (user_id, agent_id);
-- For the most used rows.
CREATE INDEX IF NOT EXISTS idx_user_agent_analytics_usage_count ON public.user_agent_analytics (usage_count);

-- When the figures were computed, and from what. As a column of the view it would change every row at every refresh.
CREATE TABLE IF NOT EXISTS public.user_agent_analytics_state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    refreshed_at timestamptz NOT NULL DEFAULT now(),
    -- The state that was counted, and the day; a different current mark means that the figures are out of date.
    mark text NOT NULL DEFAULT ''
);
ALTER TABLE public.user_agent_analytics_state ENABLE ROW LEVEL SECURITY;
DO $policy$
BEGIN
    DROP POLICY IF EXISTS user_agent_analytics_state_service_role ON public.user_agent_analytics_state;
    CREATE POLICY user_agent_analytics_state_service_role ON public.user_agent_analytics_state
        FOR SELECT TO service_role USING (true);
END
$policy$;

-- A materialized view has no row-level security: users see only their own rows through this view. It reads with its
-- owner's rights, and security_barrier keeps conditions of the caller away from other users' rows.
CREATE OR REPLACE VIEW public.user_agent_analytics_own WITH (security_barrier = true) AS
SELECT a.*, s.refreshed_at
  FROM public.user_agent_analytics AS a
 CROSS JOIN public.user_agent_analytics_state AS s
 WHERE a.user_id = (SELECT auth.uid());

REVOKE ALL ON public.user_agent_analytics, public.user_agent_analytics_state, public.user_agent_analytics_own
    FROM PUBLIC, anon, authenticated, service_role;

-- The time comes first: figures are never older than it says.
INSERT INTO public.user_agent_analytics_state (refreshed_at) VALUES (now())
ON CONFLICT (only_row) DO UPDATE SET refreshed_at = excluded.refreshed_at;
REFRESH MATERIALIZED VIEW public.user_agent_analytics;
-- Tables that the upgrade filled, unless 014 has analyzed them.
ANALYZE public.user_agent_analytics;

GRANT SELECT ON public.user_agent_analytics, public.user_agent_analytics_state TO service_role;
GRANT SELECT ON public.user_agent_analytics_own TO authenticated;

DO $comments$
DECLARE
    v_column text;
    v_meaning text;
BEGIN
    COMMENT ON MATERIALIZED VIEW public.user_agent_analytics IS 'Totals, recent windows and ranks of every live row of user_agents; 1d, 7d and 30d are whole UTC days up to the current one; written by the task analytics.refresh.';
    COMMENT ON COLUMN public.user_agent_analytics.user_id IS 'The user of the pair.';
    COMMENT ON COLUMN public.user_agent_analytics.agent_id IS 'The agent of the pair.';
    COMMENT ON COLUMN public.user_agent_analytics.usage_count IS 'Number of uses.';
    COMMENT ON COLUMN public.user_agent_analytics.message_count IS 'Number of messages.';
    COMMENT ON COLUMN public.user_agent_analytics.success_count IS 'Number of uses that succeeded.';
    COMMENT ON COLUMN public.user_agent_analytics.error_count IS 'Number of uses that failed.';
    COMMENT ON COLUMN public.user_agent_analytics.success_rate_percent IS 'Share of uses that succeeded, in percent; NULL before the first use.';
    COMMENT ON COLUMN public.user_agent_analytics.total_tokens_used IS 'Number of tokens.';
    COMMENT ON COLUMN public.user_agent_analytics.total_cost_usd IS 'Cost in US dollars.';
    COMMENT ON COLUMN public.user_agent_analytics.avg_response_time_ms IS 'Mean response time in milliseconds; NULL: none was reported.';
    COMMENT ON COLUMN public.user_agent_analytics.last_used_at IS 'Time of the newest counted event.';
    COMMENT ON COLUMN public.user_agent_analytics.usage_count_1d IS 'Number of uses on the current UTC day.';
    COMMENT ON COLUMN public.user_agent_analytics.total_tokens_used_1d IS 'Number of tokens on the current UTC day.';
    COMMENT ON COLUMN public.user_agent_analytics.total_cost_usd_1d IS 'Cost in US dollars on the current UTC day.';
    COMMENT ON COLUMN public.user_agent_analytics.usage_count_7d IS 'Number of uses within 7 UTC days.';
    COMMENT ON COLUMN public.user_agent_analytics.total_tokens_used_7d IS 'Number of tokens within 7 UTC days.';
    COMMENT ON COLUMN public.user_agent_analytics.total_cost_usd_7d IS 'Cost in US dollars within 7 UTC days.';
    COMMENT ON COLUMN public.user_agent_analytics.usage_count_30d IS 'Number of uses within 30 UTC days.';
    COMMENT ON COLUMN public.user_agent_analytics.total_tokens_used_30d IS 'Number of tokens within 30 UTC days.';
    COMMENT ON COLUMN public.user_agent_analytics.total_cost_usd_30d IS 'Cost in US dollars within 30 UTC days.';
    COMMENT ON COLUMN public.user_agent_analytics.success_rate_percent_30d IS 'Share of uses within 30 UTC days that succeeded, in percent; NULL without one.';
    COMMENT ON COLUMN public.user_agent_analytics.avg_response_time_ms_30d IS 'Mean response time within 30 UTC days in milliseconds; NULL: none was reported.';
    COMMENT ON COLUMN public.user_agent_analytics.user_rank IS 'Place of the agent among the agents of the user by uses, from 1.';
    COMMENT ON COLUMN public.user_agent_analytics.agent_rank IS 'Place of the agent among all agents by the uses of all users, from 1.';
    COMMENT ON INDEX public.user_agent_analytics_key IS 'Finds the line of a pair; a refresh without waits requires it.';
    COMMENT ON INDEX public.idx_user_agent_analytics_usage_count IS 'Finds the most used rows.';
    COMMENT ON TABLE public.user_agent_analytics_state IS 'When the figures of user_agent_analytics were computed, and from what; one row, written by the task analytics.refresh.';
    COMMENT ON COLUMN public.user_agent_analytics_state.only_row IS 'Always true: there is one row.';
    COMMENT ON COLUMN public.user_agent_analytics_state.refreshed_at IS 'Time of the figures.';
    COMMENT ON COLUMN public.user_agent_analytics_state.mark IS 'The UTC day and the state that was counted; a different current one means that the figures are out of date.';
    COMMENT ON INDEX public.user_agent_analytics_state_pkey IS 'Keeps the table at one row.';
    COMMENT ON POLICY user_agent_analytics_state_service_role ON public.user_agent_analytics_state IS 'A service_role without BYPASSRLS reads the state.';
    COMMENT ON VIEW public.user_agent_analytics_own IS 'The lines of user_agent_analytics of auth.uid(), with the time of the figures; reads with its owner''s rights.';
    FOR v_column, v_meaning IN
        SELECT attname, col_description(attrelid, attnum) FROM pg_catalog.pg_attribute
        WHERE attrelid = 'public.user_agent_analytics'::regclass AND attnum > 0
    LOOP
        EXECUTE format('COMMENT ON COLUMN public.user_agent_analytics_own.%I IS %L', v_column, v_meaning);
    END LOOP;
    COMMENT ON COLUMN public.user_agent_analytics_own.refreshed_at IS 'Time of the figures.';
END
$comments$;
