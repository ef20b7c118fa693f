-- What the tests read and nothing else does.

-- name: last_conversations
-- The conversation in which each pair was last used.
SELECT user_id, agent_id, last_conversation_id FROM public.user_agents WHERE last_conversation_id IS NOT NULL

-- name: dead_letters
-- All dead letters, oldest first.
SELECT id, entry_key, position, stream, entry_id, events, reason, payload, created_at, replayed_at
  FROM public.usage_dead_letters
 ORDER BY id
