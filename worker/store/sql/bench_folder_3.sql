-- Since 3.0.0: one folder of a user, in the user's own order.
SELECT id, agent_id, custom_name, folder, tags, is_favorite, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND deleted_at IS NULL AND folder = %(folder)s
 ORDER BY sort_order
 LIMIT 50
