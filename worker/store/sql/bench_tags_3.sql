-- Since 3.0.0: what a user gave a tag. The GIN index on tags serves service_role only; here user_id is looked up.
SELECT id, agent_id, custom_name, folder, tags, is_favorite, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND deleted_at IS NULL AND tags @> %(tags)s
 ORDER BY added_at DESC
 LIMIT 50
