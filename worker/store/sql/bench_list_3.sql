-- Since 3.0.0: what a user has, newest first.
SELECT id, agent_id, custom_name, folder, tags, is_favorite, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND deleted_at IS NULL
 ORDER BY added_at DESC
 LIMIT 50
