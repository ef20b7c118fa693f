-- Every user with every agent: the table that a benchmark counts into.
INSERT INTO public.user_agents (user_id, agent_id) SELECT u.id, a.id FROM auth.users u CROSS JOIN public.agents a
