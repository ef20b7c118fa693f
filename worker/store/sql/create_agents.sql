-- USAGE_UNKNOWN=create: agents that live elsewhere are named by their id until somebody names them.
INSERT INTO public.agents (id, name)
SELECT id, id::text FROM unnest(%(ids)s::uuid[]) AS id ORDER BY id ON CONFLICT DO NOTHING
