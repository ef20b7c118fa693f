-- Lock the rows of a batch in key order, before its conversations are looked up: from here on they cannot be deleted,
-- and the days of the batch can be counted in any order.
SELECT FROM public.user_agents ua
  JOIN unnest(%(users)s::uuid[], %(agents)s::uuid[]) AS b (user_id, agent_id) USING (user_id, agent_id)
 ORDER BY user_id, agent_id
   FOR NO KEY UPDATE OF ua
