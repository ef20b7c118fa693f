-- The rows that first use creates; in key order, like every write to user_agents.
INSERT INTO public.user_agents (user_id, agent_id)
SELECT user_id, agent_id FROM unnest(%(users)s::uuid[], %(agents)s::uuid[]) AS b (user_id, agent_id)
 ORDER BY user_id, agent_id
ON CONFLICT (user_id, agent_id) DO NOTHING
