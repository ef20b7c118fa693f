-- Back to a table that has counted nothing, with the room in its pages as VACUUM leaves it.
TRUNCATE public.usage_events, public.usage_daily, public.usage_past_daily, public.user_agent_conversations,
    public.usage_entries, public.usage_intake, public.usage_dead_letters, public.user_agents
