-- Where the next pairs begin, so many behind this one; nothing, where these are the last.
SELECT user_id, agent_id
  FROM (
    (SELECT user_id, agent_id FROM public.user_agents WHERE (user_id, agent_id) > (%(user_id)s, %(agent_id)s)
      ORDER BY user_id, agent_id OFFSET %(pairs)s LIMIT 1)
    UNION ALL
    (SELECT user_id, agent_id FROM public.usage_daily WHERE (user_id, agent_id) > (%(user_id)s, %(agent_id)s)
      ORDER BY user_id, agent_id OFFSET %(rows)s LIMIT 1)
    UNION ALL
    (SELECT user_id, agent_id FROM public.user_agent_conversations
      WHERE (user_id, agent_id) > (%(user_id)s, %(agent_id)s)
      ORDER BY user_id, agent_id OFFSET %(rows)s LIMIT 1)
  ) AS ahead
 ORDER BY user_id, agent_id LIMIT 1
