-- As a restored dump of the schema leaves it, it has no figures yet, and nothing to compare with.
REFRESH MATERIALIZED VIEW public.user_agent_analytics
