-- version: 4.0.0
-- lock_timeout: 100ms
-- squawk-ignore-file ban-drop-table, ban-drop-view -- a way down takes away what the way up brought
DROP VIEW public.user_agent_analytics_own;
DROP MATERIALIZED VIEW public.user_agent_analytics;
DROP TABLE public.user_agent_analytics_state;
