-- Which conversations are new to their pair; conversation_count grows by these.
INSERT INTO public.user_agent_conversations (user_id, agent_id, conversation_id)
SELECT user_id, agent_id, conversation_id FROM batch_conversations
ON CONFLICT DO NOTHING
RETURNING user_id, agent_id
