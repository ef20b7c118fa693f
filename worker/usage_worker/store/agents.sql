-- Agents by id and by name.

-- name: agent_names
-- The names of agents that the role sees; a platform may have some without one.
SELECT id, coalesce(name, id::text) AS name FROM public.agents WHERE id = ANY (%(ids)s::uuid[])

-- name: agents_named
-- The agents of a name, two of them at most: with two it is not unique.
SELECT id, name FROM public.agents WHERE name = %(name)s ORDER BY id LIMIT 2
