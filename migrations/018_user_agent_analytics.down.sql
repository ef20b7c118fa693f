-- version: 4.0.0
-- lock_timeout: 100ms
-- squawk-ignore-file ban-drop-table, ban-drop-view -- a rollback removes what the upgrade created
DROP VIEW public.user_agent_analytics_own;
DROP MATERIALIZED VIEW public.user_agent_analytics;
DROP TABLE public.user_agent_analytics_state;
