-- Where a pair has conversations and no day to count them on, today's.
INSERT INTO public.usage_daily (user_id, agent_id, day)
SELECT user_id, agent_id, (now() AT TIME ZONE 'UTC')::date
  FROM differing x
 WHERE holder IS NOT NULL AND expected[11] > found[11] AND NOT EXISTS (
        SELECT FROM public.usage_daily d
         WHERE d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day > '1970-01-01')
 ORDER BY user_id, agent_id
ON CONFLICT (user_id, agent_id, day) DO NOTHING
