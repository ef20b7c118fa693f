-- Since 3.0.0: what a user used last.
SELECT id, agent_id, custom_name, folder, tags, is_favorite, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND deleted_at IS NULL AND last_used_at IS NOT NULL
 ORDER BY last_used_at DESC NULLS LAST
 LIMIT 50
