-- Pairs that were used and have lost their row, though nobody ended their life: a life that ended left its sums behind.
INSERT INTO public.user_agents (user_id, agent_id)
SELECT d.user_id, d.agent_id
  FROM differing d JOIN auth.users u ON u.id = d.user_id JOIN public.agents a ON a.id = d.agent_id
 WHERE d.life IS NULL AND NOT d.ended AND d.expected[1] > d.found[1]
 ORDER BY d.user_id, d.agent_id
ON CONFLICT (user_id, agent_id) DO NOTHING
