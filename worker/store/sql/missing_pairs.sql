-- Staged pairs without a row in user_agents, and whether their user and their agent exist. A scalar subquery instead of
-- an anti-join: it is one look into the index a pair, where the planner may think that reading all of it is cheaper.
SELECT t.user_id::text, t.agent_id::text,
       EXISTS (SELECT FROM auth.users u WHERE u.id = t.user_id) AS user_exists,
       EXISTS (SELECT FROM public.agents a WHERE a.id = t.agent_id) AS agent_exists
  FROM batch_totals t
 WHERE (SELECT true FROM public.user_agents ua WHERE ua.user_id = t.user_id AND ua.agent_id = t.agent_id) IS NULL
