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
    END IF;
END
$auth$;

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
    END IF;
END
$tables$;
