-- Pairs without a row in user_agents, and whether their user and their agent exist.
SELECT b.user_id, b.agent_id,
       EXISTS (SELECT FROM auth.users u WHERE u.id = b.user_id) AS user_exists,
       EXISTS (SELECT FROM public.agents a WHERE a.id = b.agent_id) AS agent_exists
  FROM unnest(%(users)s::uuid[], %(agents)s::uuid[]) AS b (user_id, agent_id)
 WHERE NOT EXISTS (SELECT FROM public.user_agents ua
                    WHERE ua.user_id = b.user_id AND ua.agent_id = b.agent_id)
