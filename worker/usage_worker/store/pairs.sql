-- The rows of user_agents that a batch needs: locks, rows that are missing, and their insertion.

-- name: lock_batch_pairs
-- Lock the rows of a batch in key order, before its conversations are looked up: they can then not be deleted, and the
-- days of the batch can be counted in any order.
SELECT FROM public.user_agents ua
  JOIN unnest(%(users)s::uuid[], %(agents)s::uuid[]) AS b (user_id, agent_id) USING (user_id, agent_id)
 ORDER BY user_id, agent_id
   FOR NO KEY UPDATE OF ua

-- name: held_pairs
-- Those pairs of a batch whose rows others hold. The other rows are locked as by lock_batch_pairs.
WITH batch AS MATERIALIZED (
    SELECT user_id, agent_id FROM unnest(%(users)s::uuid[], %(agents)s::uuid[]) AS b (user_id, agent_id)
), free AS MATERIALIZED (
    SELECT user_id, agent_id FROM public.user_agents ua JOIN batch USING (user_id, agent_id)
     ORDER BY user_id, agent_id
       FOR NO KEY UPDATE OF ua SKIP LOCKED
)
SELECT user_id, agent_id
  FROM (SELECT user_id, agent_id FROM public.user_agents JOIN batch USING (user_id, agent_id)
        EXCEPT SELECT user_id, agent_id FROM free) held

-- name: missing_pairs
-- Staged pairs without a row in user_agents, and whether their user and their agent exist. A scalar subquery instead of
-- an anti-join: one index look-up for each pair, where the planner might choose to read the whole index.
WITH missing AS (
    SELECT array_agg(t.user_id) AS users, array_agg(t.agent_id) AS agents
      FROM batch_totals t
     WHERE is_pair
       AND (SELECT true FROM public.user_agents ua WHERE ua.user_id = t.user_id AND ua.agent_id = t.agent_id) IS NULL
)
SELECT p.user_id, p.agent_id, p.user_exists, p.agent_exists
  FROM missing, public.usage_find_parents(missing.users, missing.agents) p

-- name: creating_parents
-- Whether auth.users belongs to the owner of our functions, or else to the platform, and whether this role may call the
-- one that inserts.
SELECT u.relowner = p.proowner AS owns_users, has_function_privilege(p.oid, 'EXECUTE') AS may_create,
       current_user::text AS role
  FROM pg_catalog.pg_proc p, pg_catalog.pg_class u JOIN pg_catalog.pg_namespace n ON n.oid = u.relnamespace
 WHERE p.oid = 'public.usage_create_parents(uuid[], uuid[])'::regprocedure AND (n.nspname, u.relname) = ('auth', 'users')

-- name: create_parents
-- USAGE_UNKNOWN=create: users and agents that exist only outside this database get bare rows, which the foreign keys
-- need.
SELECT public.usage_create_parents(%(users)s::uuid[], %(agents)s::uuid[])

-- name: insert_pairs
-- Insert pairs at their first use, in key order, like every write to user_agents.
INSERT INTO public.user_agents (user_id, agent_id)
SELECT user_id, agent_id FROM unnest(%(users)s::uuid[], %(agents)s::uuid[]) AS b (user_id, agent_id)
 ORDER BY user_id, agent_id
ON CONFLICT (user_id, agent_id) DO NOTHING
