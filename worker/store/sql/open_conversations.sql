-- Note the conversations, in key order, and name the pairs of those that are new, once for each.
INSERT INTO public.user_agent_conversations (user_id, agent_id, conversation_id)
SELECT user_id, agent_id, conversation_id FROM batch_conversations ORDER BY user_id, agent_id, conversation_id
ON CONFLICT DO NOTHING
RETURNING user_id::text, agent_id::text
