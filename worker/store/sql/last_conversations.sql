-- The conversation in which each pair was last used.
SELECT user_id, agent_id, last_conversation_id FROM public.user_agents WHERE last_conversation_id IS NOT NULL
