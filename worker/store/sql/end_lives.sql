-- Of pairs whose user or agent is gone nothing is left but the sums of ended lives.
SELECT public.usage_end_lives(array_agg(user_id), array_agg(agent_id)) FROM differing WHERE holder IS NULL
