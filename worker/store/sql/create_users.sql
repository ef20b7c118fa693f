-- USAGE_UNKNOWN=create: users that live elsewhere get a bare row, for the foreign keys' sake.
INSERT INTO auth.users (id) SELECT id FROM unnest(%(ids)s::uuid[]) AS new (id) ORDER BY 1 ON CONFLICT DO NOTHING
