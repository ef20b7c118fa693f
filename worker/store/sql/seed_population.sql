-- Users and agents for demo and benchmark; their pairs come into being with the first use.
WITH users AS (
    INSERT INTO auth.users (id) SELECT unnest(%(users)s::uuid[]) RETURNING id
), agents AS (
    INSERT INTO public.agents (id, name) SELECT id, 'agent ' || id FROM unnest(%(agents)s::uuid[]) AS id RETURNING id
)
SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM agents) AS agents
