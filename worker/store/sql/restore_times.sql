-- First and last use of rows that were lost, by all events that the ledger has.
UPDATE public.user_agents ua SET
    first_used_at = least(ua.first_used_at, e.first_used_at), last_used_at = greatest(ua.last_used_at, e.last_used_at)
  FROM (
    SELECT user_id, agent_id, min(occurred_at) AS first_used_at, max(occurred_at) AS last_used_at
      FROM public.usage_events JOIN unnest(%(users)s::uuid[], %(agents)s::uuid[]) AS r (user_id, agent_id)
     USING (user_id, agent_id)
     WHERE type = 'usage'
     GROUP BY user_id, agent_id
  ) AS e
 WHERE ua.user_id = e.user_id AND ua.agent_id = e.agent_id
