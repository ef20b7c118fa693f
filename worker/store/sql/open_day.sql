-- The days that are missing.
INSERT INTO public.usage_daily (user_id, agent_id, day)
SELECT user_id, agent_id, %(day)s FROM differing WHERE 0 < ANY (added) ORDER BY user_id, agent_id
ON CONFLICT (user_id, agent_id, day) DO NOTHING
