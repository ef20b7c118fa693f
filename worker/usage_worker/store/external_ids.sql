-- The application's own ids, from which UUIDs are made.

-- name: unknown_external_ids
-- Those of the given ids that are not kept as they are given. A scalar subquery instead of an anti-join: one index look-up
-- for each id, where the planner might choose to read the whole table.
SELECT kind, id, external_id
  FROM unnest(%(kinds)s::text[], %(ids)s::uuid[], %(external_ids)s::text[]) AS given (kind, id, external_id)
 WHERE (SELECT k.external_id = given.external_id FROM public.usage_external_ids k
         WHERE k.kind = given.kind AND k.id = given.id) IS NOT TRUE

-- name: keep_external_ids
-- In the order of the second key, which in one namespace is one of the first key, too: batches with common ids wait here
-- for one another's end instead of deadlocking. Ids that conflict with others are left out.
INSERT INTO public.usage_external_ids (kind, id, external_id)
SELECT kind, id, external_id
  FROM unnest(%(kinds)s::text[], %(ids)s::uuid[], %(external_ids)s::text[]) AS given (kind, id, external_id)
 ORDER BY kind, external_id COLLATE "C", id
ON CONFLICT DO NOTHING

-- name: external_ids_ready
-- Locks the table as an insert does, and writes nothing: it waits while somebody holds all of it, as CREATE INDEX does.
INSERT INTO public.usage_external_ids (kind) SELECT NULL WHERE false

-- name: external_ids
-- The application's own ids of UUIDs, as far as these were made from them.
SELECT id, external_id FROM public.usage_external_ids WHERE kind = %(kind)s AND id = ANY (%(ids)s::uuid[])

-- name: external_ids_of_any_kind
-- The application's own ids of UUIDs that may be of any kind. With the kinds, by which the primary key begins.
SELECT kind, id, external_id FROM public.usage_external_ids
 WHERE kind IN ('user', 'agent', 'conversation') AND id = ANY (%(ids)s::uuid[])
 ORDER BY kind, external_id

-- name: id_of_external_id
-- The UUID of an application's own id.
SELECT id FROM public.usage_external_ids WHERE kind = %(kind)s AND external_id = %(external_id)s

-- name: id_namespace
-- The namespace of this installation.
SELECT namespace FROM public.usage_id_namespace

-- name: keep_id_namespace
-- Of two workers that begin at the same time, the second waits here for the first.
INSERT INTO public.usage_id_namespace (namespace) VALUES (%(namespace)s) ON CONFLICT DO NOTHING

-- name: sees_all_parents
-- Whether this role sees every user and every agent, which may be a platform's: a hidden one would pass for none.
SELECT bool_and(NOT row_security_active(c.oid) AND has_schema_privilege(n.oid, 'USAGE')
                AND has_column_privilege(c.oid, 'id', 'SELECT'))
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE (n.nspname, c.relname) IN (('auth', 'users'), ('public', 'agents'))

-- name: ownerless_ids
-- Begins a statement: the ids of users and agents that do not exist, and of conversations that no pair has. Anti-joins, since
-- every id is looked at; in a CTE, whose plan no join with the others changes.
WITH ownerless AS MATERIALIZED (
    SELECT kind, id FROM public.usage_external_ids e
     WHERE kind = 'user' AND NOT EXISTS (SELECT FROM auth.users u WHERE u.id = e.id)
    UNION ALL
    SELECT kind, id FROM public.usage_external_ids e
     WHERE kind = 'agent' AND NOT EXISTS (SELECT FROM public.agents a WHERE a.id = e.id)
    UNION ALL
    SELECT kind, id FROM public.usage_external_ids e
     WHERE kind = 'conversation'
       AND NOT EXISTS (SELECT FROM public.user_agent_conversations c WHERE c.conversation_id = e.id)
)

-- name: ownerless_conversation_ids
-- The same where users or agents may be hidden: that none is seen proves nothing, and a role without SELECT may not even
-- name their tables, so that no parameter of the other statement would do.
WITH ownerless AS MATERIALIZED (
    SELECT kind, id FROM public.usage_external_ids e
     WHERE kind = 'conversation'
       AND NOT EXISTS (SELECT FROM public.user_agent_conversations c WHERE c.conversation_id = e.id)
)

-- name: delete_ownerless_ids
-- After one of these: delete the ids unless a dead letter names their UUID. Payloads are read only if there is anything to
-- delete.
, needed AS MATERIALIZED (
    -- The strings of the JSON, also of JSON within a string, that may be a UUID. A regular expression takes six times as
    -- long: 0.5 s for 1 MB.
    SELECT DISTINCT replace(lower(btrim(piece, '\{}')), '-', '') AS digits
      FROM public.usage_dead_letters d, string_to_table(d.payload, '"') AS piece
     WHERE (SELECT true FROM ownerless LIMIT 1) AND length(piece) BETWEEN 32 AND 40
)
DELETE FROM public.usage_external_ids e USING ownerless o
 WHERE e.kind = o.kind AND e.id = o.id
   AND NOT EXISTS (SELECT FROM needed n WHERE n.digits = replace(e.id::text, '-', ''))
