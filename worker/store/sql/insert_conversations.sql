-- Which conversations are new to their pair; conversation_count grows by these. In key order, like every write.
INSERT INTO public.user_agent_conversations (user_id, agent_id, conversation_id)
SELECT user_id, agent_id, conversation_id FROM batch_conversations ORDER BY user_id, agent_id, conversation_id
ON CONFLICT DO NOTHING
RETURNING user_id::text, agent_id::text
