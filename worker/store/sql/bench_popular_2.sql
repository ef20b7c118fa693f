-- 2.0.0: what a user uses most.
SELECT id, agent_id, usage_count, last_used_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND usage_count > 0
 ORDER BY usage_count DESC
 LIMIT 50
