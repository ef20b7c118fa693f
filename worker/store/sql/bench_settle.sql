-- What filling the tables has left to do would otherwise be done in the middle of a measurement.
VACUUM (ANALYZE) auth.users, public.user_agents, public.usage_daily, public.user_agent_conversations
