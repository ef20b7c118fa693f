-- Lock the rows in key order, like every write to user_agents: from here on nobody counts for these pairs. What is
-- counted up to here went into both sides of a difference, so that it is still the same.
UPDATE differing d SET holder = ua.id
  FROM (
    SELECT ua.id, ua.user_id, ua.agent_id
      FROM public.user_agents ua JOIN differing USING (user_id, agent_id)
     ORDER BY ua.user_id, ua.agent_id FOR NO KEY UPDATE OF ua
  ) AS ua
 WHERE d.user_id = ua.user_id AND d.agent_id = ua.agent_id
