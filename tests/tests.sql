-- Queries that only the tests use.

-- name: last_conversations
-- The last conversation of each pair.
SELECT user_id, agent_id, last_conversation_id FROM public.user_agents WHERE last_conversation_id IS NOT NULL

-- name: dead_letters
-- All dead letters, oldest first.
SELECT id, entry_key, position, stream, entry_id, events, reason, payload, created_at, replayed_at
  FROM public.usage_dead_letters
 ORDER BY id
