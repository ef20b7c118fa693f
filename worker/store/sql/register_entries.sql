-- Which stream entries are seen for the first time. A second transaction with the same entry waits here for the
-- first one's end, so that an entry in two hands is booked once.
INSERT INTO public.usage_entries (key)
SELECT key FROM unnest(%(keys)s::uuid[]) AS key ORDER BY key
ON CONFLICT DO NOTHING
RETURNING key
