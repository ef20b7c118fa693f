-- Readers read on meanwhile, and no writer waits.
REFRESH MATERIALIZED VIEW CONCURRENTLY public.user_agent_analytics
