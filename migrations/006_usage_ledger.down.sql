-- version: 4.0.0
DROP TRIGGER user_agents_forget_children ON public.user_agents;
DROP FUNCTION public.user_agents_forget_children();
DROP TABLE public.usage_dead_letters, public.usage_intake, public.usage_entries, public.user_agent_conversations,
    public.usage_daily, public.usage_events;
DROP FUNCTION public.usage_events_ensure_day(date);
ALTER TABLE public.user_agents
    DROP COLUMN response_time_total_ms,
    DROP COLUMN response_time_samples,
    DROP COLUMN last_conversation_at;
