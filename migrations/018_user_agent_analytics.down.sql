-- version: 4.0.0
-- transaction: off
-- lock_timeout: 100ms
-- squawk-disable-assume-in-transaction
-- squawk-ignore-file ban-drop-table, ban-drop-view -- a rollback removes what the upgrade created
DROP VIEW IF EXISTS public.user_agent_analytics_own;
DROP MATERIALIZED VIEW IF EXISTS public.user_agent_analytics;
DROP TABLE IF EXISTS public.user_agent_analytics_state;
