-- version: 4.3.0
-- lock_timeout: 100ms
--
-- An application's own ids of users, agents and conversations: their UUIDs are made from them, and lead back to them only
-- by these rows. Tables of the platform get neither columns nor triggers; a periodic task deletes what nothing needs.

-- A rollback from 4.3.0 kept the rows under other names.
-- squawk-ignore renaming-table -- nothing uses the kept table
ALTER TABLE IF EXISTS public.usage_external_ids_kept_4_3_0 RENAME TO usage_external_ids;
CREATE TABLE IF NOT EXISTS public.usage_external_ids (
    kind text NOT NULL CHECK (kind IN ('user', 'agent', 'conversation')),
    id uuid NOT NULL,
    -- By bytes: neither a comparison nor the index then depends on the operating system's locales.
    external_id text COLLATE "C" NOT NULL CHECK (char_length(external_id) BETWEEN 1 AND 255),
    first_seen timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, id),
    UNIQUE (kind, external_id)
);
-- squawk-ignore renaming-table -- as above
ALTER TABLE IF EXISTS public.usage_id_namespace_kept_4_3_0 RENAME TO usage_id_namespace;
CREATE TABLE IF NOT EXISTS public.usage_id_namespace (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    namespace uuid NOT NULL,
    kept_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE public.usage_external_ids ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.usage_id_namespace ENABLE ROW LEVEL SECURITY;

-- The conversations of the caller, whose table users may not read. An array, evaluated once per query, limits the policy to
-- index look-ups.
CREATE OR REPLACE FUNCTION public.usage_own_conversation_ids() RETURNS uuid[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY(SELECT conversation_id FROM public.user_agent_conversations WHERE user_id = (SELECT auth.uid()))
$$;

-- By look-up, so that a database needs no namespace and a caller learns of no id that it may not read.
CREATE OR REPLACE FUNCTION public.usage_uuid_of(p_kind text, p_external_id text) RETURNS uuid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT id FROM public.usage_external_ids WHERE kind = p_kind AND external_id = p_external_id
$$;

-- An agent that events name by an application's own id is called by it.
CREATE OR REPLACE FUNCTION public.usage_create_parents(p_users uuid[], p_agents uuid[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO auth.users (id) SELECT unnest(p_users) ORDER BY 1 ON CONFLICT DO NOTHING;
    INSERT INTO public.agents (id, name)
    SELECT a.id, coalesce((SELECT e.external_id FROM public.usage_external_ids e WHERE e.kind = 'agent' AND e.id = a.id),
                          a.id::text)
      FROM unnest(p_agents) AS a (id) ORDER BY 1 ON CONFLICT DO NOTHING;
$$;

-- A platform's default privileges may have granted more.
REVOKE ALL ON public.usage_external_ids, public.usage_id_namespace FROM PUBLIC, anon, authenticated, service_role;
REVOKE ALL ON FUNCTION public.usage_own_conversation_ids(), public.usage_uuid_of(text, text)
    FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.usage_external_ids TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.usage_external_ids TO service_role;
GRANT SELECT ON public.usage_id_namespace TO service_role;
GRANT SELECT, INSERT ON public.usage_external_ids, public.usage_id_namespace TO usage_ingest;
GRANT EXECUTE ON FUNCTION public.usage_own_conversation_ids() TO authenticated;
GRANT EXECUTE ON FUNCTION public.usage_uuid_of(text, text) TO authenticated, service_role, usage_ingest;
-- One policy, so that each part can use the primary key. The subquery reads agents with the caller's rights; as a scalar
-- one it is a look-up for each agent, where EXISTS may read the whole table.
CREATE POLICY usage_external_ids_own ON public.usage_external_ids FOR SELECT TO authenticated USING (
    kind = 'user' AND id = (SELECT auth.uid())
    OR kind = 'conversation' AND id = ANY ((SELECT public.usage_own_conversation_ids())::uuid[])
    OR kind = 'agent' AND (SELECT true FROM public.agents AS a WHERE a.id = usage_external_ids.id)
);
-- For a service_role that could not be given BYPASSRLS.
CREATE POLICY usage_external_ids_service_role ON public.usage_external_ids FOR ALL TO service_role
    USING (true) WITH CHECK (true);
CREATE POLICY usage_external_ids_ingest ON public.usage_external_ids FOR ALL TO usage_ingest USING (true);
CREATE POLICY usage_id_namespace_service_role ON public.usage_id_namespace FOR SELECT TO service_role USING (true);
CREATE POLICY usage_id_namespace_ingest ON public.usage_id_namespace FOR ALL TO usage_ingest USING (true);

DO $comments$
BEGIN
    COMMENT ON TABLE public.usage_external_ids IS 'An application''s own ids of users, agents and conversations, as events named them; written by the workers, deleted when nothing has the id any more.';
    COMMENT ON COLUMN public.usage_external_ids.kind IS 'What the id names: user, agent or conversation.';
    COMMENT ON COLUMN public.usage_external_ids.id IS 'The id in every other table: the UUIDv5 of kind and external_id.';
    COMMENT ON COLUMN public.usage_external_ids.external_id IS 'The application''s own id, 1 to 255 characters.';
    COMMENT ON COLUMN public.usage_external_ids.first_seen IS 'When a worker first counted or refused an event with this id.';
    COMMENT ON INDEX public.usage_external_ids_pkey IS 'Finds the application''s own id of a UUID.';
    COMMENT ON INDEX public.usage_external_ids_kind_external_id_key IS 'Finds the UUID of an application''s own id, and keeps two namespaces from mixing.';
    COMMENT ON POLICY usage_external_ids_own ON public.usage_external_ids IS 'Users see their own id, those of their conversations, and those of agents that they see.';
    COMMENT ON POLICY usage_external_ids_service_role ON public.usage_external_ids IS 'A service_role without BYPASSRLS sees and changes every id.';
    COMMENT ON POLICY usage_external_ids_ingest ON public.usage_external_ids IS 'Workers that count see every row; grants limit what they do with it.';
    COMMENT ON TABLE public.usage_id_namespace IS 'The namespace of this installation''s UUIDv5, in one row; written by the first worker that makes ids.';
    COMMENT ON COLUMN public.usage_id_namespace.is_only IS 'Always true: the key of the only row.';
    COMMENT ON COLUMN public.usage_id_namespace.namespace IS 'The namespace in which UUIDs are made from an application''s own ids.';
    COMMENT ON COLUMN public.usage_id_namespace.kept_at IS 'When it was written.';
    COMMENT ON INDEX public.usage_id_namespace_pkey IS 'Keeps the table from having a second row.';
    COMMENT ON POLICY usage_id_namespace_service_role ON public.usage_id_namespace IS 'A service_role without BYPASSRLS reads the namespace.';
    COMMENT ON POLICY usage_id_namespace_ingest ON public.usage_id_namespace IS 'Workers that count see every row; grants limit what they do with it.';
    COMMENT ON FUNCTION public.usage_create_parents IS 'Inserts bare users and agents for USAGE_UNKNOWN=create; an agent gets the application''s own id, or else its id, as its name.';
    COMMENT ON FUNCTION public.usage_own_conversation_ids IS 'Returns the ids of the caller''s conversations.';
    COMMENT ON FUNCTION public.usage_uuid_of IS 'Returns the UUID of an application''s own id of a user, agent or conversation; NULL: unknown, or not the caller''s.';
END
$comments$;
