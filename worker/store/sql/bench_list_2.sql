-- 2.0.0: what a user has, newest first.
SELECT id, agent_id, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s
 ORDER BY added_at DESC
 LIMIT 50
