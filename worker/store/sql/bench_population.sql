-- The users and agents of the pairs, for the foreign keys' sake.
WITH users AS (
    INSERT INTO auth.users (id) SELECT DISTINCT user_id FROM public.bench_pairs RETURNING id
), agents AS (
    INSERT INTO public.agents (id, name) SELECT DISTINCT agent_id, 'agent ' || agent_id FROM public.bench_pairs
    RETURNING id
)
SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM agents) AS agents
