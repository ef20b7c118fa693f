-- version: 1.0.0
-- lock_timeout: 100ms
--
-- Users, their profiles, and agents. A platform such as Supabase provides schema auth and the three roles: existing
-- objects are used as they are and never altered. The runner marks what this migration creates, and the rollback drops
-- only that. Roles belong to the whole cluster, so a comment serves as their mark.

-- Roles belong to the whole cluster, so another database may be creating the same ones at this moment.
DO $roles$
DECLARE
    wanted text;
    attributes text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['anon', 'authenticated', 'service_role'] LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted);
        attributes := CASE WHEN wanted = 'service_role' THEN 'NOLOGIN BYPASSRLS' ELSE 'NOLOGIN' END;
        BEGIN
            BEGIN
                EXECUTE format('CREATE ROLE %I %s', wanted, attributes);
            EXCEPTION WHEN insufficient_privilege THEN
                -- Only a role with BYPASSRLS may grant it. Otherwise the policies for service_role grant access.
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            END;
            EXECUTE format('COMMENT ON ROLE %I IS %L', wanted, 'created by usage-worker');
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
END
$roles$;

DO $auth$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'auth') THEN
        CREATE SCHEMA auth;
        COMMENT ON SCHEMA auth IS 'Users and the identity of a session; made by usage-worker, since no platform had made it.';
        GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role;
    END IF;

    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = 'auth' AND c.relname = 'users'
    ) THEN
        CREATE TABLE auth.users (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            email text,
            created_at timestamptz NOT NULL DEFAULT now()
        );
        REVOKE ALL ON auth.users FROM PUBLIC, anon, authenticated;
        COMMENT ON TABLE auth.users IS 'The users; written by the application, and by the workers with USAGE_UNKNOWN=create.';
        COMMENT ON COLUMN auth.users.id IS 'Identifies the user.';
        COMMENT ON COLUMN auth.users.email IS 'Address of the user; NULL: unknown.';
        COMMENT ON COLUMN auth.users.created_at IS 'When the row was inserted.';
        COMMENT ON INDEX auth.users_pkey IS 'Finds a user by the id.';
    END IF;

    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = 'auth' AND p.proname = 'uid'
    ) THEN
        -- The two settings are those of PostgREST before and since version 9. RETURN binds names at creation: neither the
        -- caller's search_path nor temporary types change what they mean.
        CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE RETURN coalesce(
            nullif(current_setting('request.jwt.claim.sub', true), ''),
            nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
        )::uuid;
        COMMENT ON FUNCTION auth.uid() IS 'Returns the user of the session by the claims that the REST gateway sets; NULL: none.';
    END IF;
END
$auth$;

-- Keeps updated_at of the tables that are created below; a platform's tables get no trigger.
CREATE OR REPLACE FUNCTION public.usage_set_updated_at() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION public.usage_set_updated_at() FROM PUBLIC, anon, authenticated, service_role;
COMMENT ON FUNCTION public.usage_set_updated_at() IS 'Trigger function: sets updated_at to the time of the transaction.';

DO $tables$
BEGIN
    IF to_regclass('public.user_profiles') IS NULL THEN
        CREATE TABLE public.user_profiles (
            id uuid PRIMARY KEY REFERENCES auth.users (id) ON DELETE CASCADE,
            display_name text,
            avatar_url text,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now()
        );
        ALTER TABLE public.user_profiles ENABLE ROW LEVEL SECURITY;
        REVOKE ALL ON public.user_profiles FROM PUBLIC, anon, authenticated, service_role;
        GRANT SELECT, INSERT, UPDATE ON public.user_profiles TO authenticated;
        GRANT SELECT, INSERT, UPDATE, DELETE ON public.user_profiles TO service_role;

        CREATE POLICY user_profiles_select_own ON public.user_profiles FOR SELECT TO authenticated
            USING (id = (SELECT auth.uid()));
        CREATE POLICY user_profiles_insert_own ON public.user_profiles FOR INSERT TO authenticated
            WITH CHECK (id = (SELECT auth.uid()));
        CREATE POLICY user_profiles_update_own ON public.user_profiles FOR UPDATE TO authenticated
            USING (id = (SELECT auth.uid())) WITH CHECK (id = (SELECT auth.uid()));
        CREATE POLICY user_profiles_service_role ON public.user_profiles FOR ALL TO service_role
            USING (true) WITH CHECK (true);
        CREATE TRIGGER user_profiles_updated_at BEFORE UPDATE ON public.user_profiles
            FOR EACH ROW EXECUTE FUNCTION public.usage_set_updated_at();

        COMMENT ON TABLE public.user_profiles IS 'What a user shows to others; written by the user.';
        COMMENT ON COLUMN public.user_profiles.id IS 'The user.';
        COMMENT ON COLUMN public.user_profiles.display_name IS 'Name that others see; NULL: none.';
        COMMENT ON COLUMN public.user_profiles.avatar_url IS 'Address of the user''s picture; NULL: none.';
        COMMENT ON COLUMN public.user_profiles.created_at IS 'When the row was inserted.';
        COMMENT ON COLUMN public.user_profiles.updated_at IS 'When the row last changed; written by a trigger.';
        COMMENT ON INDEX public.user_profiles_pkey IS 'Finds the profile of a user.';
        COMMENT ON POLICY user_profiles_select_own ON public.user_profiles IS 'Users see their own profile.';
        COMMENT ON POLICY user_profiles_insert_own ON public.user_profiles IS 'Users insert their own profile.';
        COMMENT ON POLICY user_profiles_update_own ON public.user_profiles IS 'Users change their own profile.';
        COMMENT ON POLICY user_profiles_service_role ON public.user_profiles
            IS 'A service_role without BYPASSRLS sees and changes every profile.';
    END IF;

    IF to_regclass('public.agents') IS NULL THEN
        CREATE TABLE public.agents (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            name text NOT NULL,
            slug text,
            title text,
            tagline text,
            description text,
            avatar_url text,
            status text,
            created_by uuid REFERENCES auth.users (id) ON DELETE SET NULL,
            is_active boolean NOT NULL DEFAULT true,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now()
        );
        CREATE INDEX idx_agents_created_by ON public.agents (created_by);
        ALTER TABLE public.agents ENABLE ROW LEVEL SECURITY;
        REVOKE ALL ON public.agents FROM PUBLIC, anon, authenticated, service_role;
        GRANT SELECT ON public.agents TO anon;
        GRANT SELECT, INSERT, UPDATE ON public.agents TO authenticated;
        GRANT SELECT, INSERT, UPDATE, DELETE ON public.agents TO service_role;

        CREATE POLICY agents_select_active ON public.agents FOR SELECT TO anon, authenticated
            USING (is_active);
        CREATE POLICY agents_select_own ON public.agents FOR SELECT TO authenticated
            USING (created_by = (SELECT auth.uid()));
        CREATE POLICY agents_insert_own ON public.agents FOR INSERT TO authenticated
            WITH CHECK (created_by = (SELECT auth.uid()));
        CREATE POLICY agents_update_own ON public.agents FOR UPDATE TO authenticated
            USING (created_by = (SELECT auth.uid())) WITH CHECK (created_by = (SELECT auth.uid()));
        CREATE POLICY agents_service_role ON public.agents FOR ALL TO service_role
            USING (true) WITH CHECK (true);
        CREATE TRIGGER agents_updated_at BEFORE UPDATE ON public.agents
            FOR EACH ROW EXECUTE FUNCTION public.usage_set_updated_at();

        COMMENT ON TABLE public.agents IS 'The agents; written by their creators, and by the workers with USAGE_UNKNOWN=create.';
        COMMENT ON COLUMN public.agents.id IS 'Identifies the agent.';
        COMMENT ON COLUMN public.agents.name IS 'Name of the agent; its id if a worker created it.';
        COMMENT ON COLUMN public.agents.slug IS 'Short name in addresses; written by the application.';
        COMMENT ON COLUMN public.agents.title IS 'Name to show to users; NULL: there is only the name; written by the application.';
        COMMENT ON COLUMN public.agents.tagline IS 'One line about the agent; written by the application.';
        COMMENT ON COLUMN public.agents.avatar_url IS 'Address of a picture; written by the application.';
        COMMENT ON COLUMN public.agents.status IS 'Status, in words of the application; written by the application.';
        COMMENT ON COLUMN public.agents.description IS 'What the agent does; NULL: not described.';
        COMMENT ON COLUMN public.agents.created_by IS 'The user who created the agent; NULL: unknown, or the user was deleted.';
        COMMENT ON COLUMN public.agents.is_active IS 'Whether everybody sees the agent.';
        COMMENT ON COLUMN public.agents.created_at IS 'When the row was inserted.';
        COMMENT ON COLUMN public.agents.updated_at IS 'When the row last changed; written by a trigger.';
        COMMENT ON INDEX public.agents_pkey IS 'Finds an agent by its id.';
        COMMENT ON INDEX public.idx_agents_created_by IS 'Finds the agents of a creator, also when the user is deleted.';
        COMMENT ON POLICY agents_select_active ON public.agents IS 'Everybody sees active agents.';
        COMMENT ON POLICY agents_select_own ON public.agents IS 'Creators see their agents, inactive ones too.';
        COMMENT ON POLICY agents_insert_own ON public.agents IS 'Users create agents of their own.';
        COMMENT ON POLICY agents_update_own ON public.agents IS 'Creators change their agents.';
        COMMENT ON POLICY agents_service_role ON public.agents
            IS 'A service_role without BYPASSRLS sees and changes every agent.';
    END IF;
END
$tables$;
