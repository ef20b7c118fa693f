-- How many pairs a range has.
SELECT count(*) AS pairs
  FROM public.user_agents
 WHERE (user_id, agent_id) >= (%(user_id)s, %(agent_id)s) AND (
        %(end_user)s::uuid IS NULL OR (user_id, agent_id) < (%(end_user)s::uuid, %(end_agent)s::uuid))
