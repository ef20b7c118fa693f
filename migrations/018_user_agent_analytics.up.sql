-- version: 4.0.0
-- lock_timeout: 100ms
-- squawk-ignore-file require-concurrent-index-creation -- nobody sees the relation before this transaction ends
--
-- Totals, recent windows and ranks of every row that is not deleted. Totals are the counters, which are the sums of all
-- days; the windows come from the daily roll-up, so that a refresh costs as much after years as on the first day. Windows
-- are whole UTC days including the current one: sums of the ledger would include deleted rows of the same pair, and
-- windows in hours would change without a new event.
--
-- Created with data, because reading an unpopulated view is an error. Reading takes the locks of a SELECT.
CREATE MATERIALIZED VIEW public.user_agent_analytics AS
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
  LEFT JOIN recent ON recent.user_id = live.user_id AND recent.agent_id = live.agent_id;

-- REFRESH CONCURRENTLY requires it, and it finds the rows of a user.
CREATE UNIQUE INDEX user_agent_analytics_key ON public.user_agent_analytics (user_id, agent_id);
-- For the most used rows.
CREATE INDEX idx_user_agent_analytics_usage_count ON public.user_agent_analytics (usage_count);
COMMENT ON MATERIALIZED VIEW public.user_agent_analytics IS 'figures of every live row of user_agents; 1d, 7d and 30d are whole UTC days up to the current one';

-- When the figures were computed, and from what. As a column of the view it would change every row at every refresh.
CREATE TABLE public.user_agent_analytics_state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    refreshed_at timestamptz NOT NULL DEFAULT now(),
    -- The state that was counted, and the day; a different current mark means that the figures are out of date.
    mark text NOT NULL DEFAULT ''
);
INSERT INTO public.user_agent_analytics_state DEFAULT VALUES;
ALTER TABLE public.user_agent_analytics_state ENABLE ROW LEVEL SECURITY;
CREATE POLICY user_agent_analytics_state_service_role ON public.user_agent_analytics_state FOR SELECT TO service_role
    USING (true);

-- A materialized view has no row-level security: users see only their own rows through this view. It reads with its
-- owner's rights, and security_barrier keeps conditions of the caller away from other users' rows.
CREATE VIEW public.user_agent_analytics_own WITH (security_barrier = true) AS
SELECT a.*, s.refreshed_at
  FROM public.user_agent_analytics AS a
 CROSS JOIN public.user_agent_analytics_state AS s
 WHERE a.user_id = (SELECT auth.uid());

REVOKE ALL ON public.user_agent_analytics, public.user_agent_analytics_state, public.user_agent_analytics_own
    FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.user_agent_analytics, public.user_agent_analytics_state TO service_role;
GRANT SELECT ON public.user_agent_analytics_own TO authenticated;
