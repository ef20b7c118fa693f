-- USAGE_UNKNOWN=create: agents that live elsewhere are named by their id until somebody names them.
INSERT INTO public.agents (id, name)
SELECT id, id::text FROM unnest(%(ids)s::uuid[]) AS new (id) ORDER BY 1 ON CONFLICT DO NOTHING
