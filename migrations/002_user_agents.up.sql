-- version: 2.0.0
-- lock_timeout: 100ms

DO $table$
BEGIN
    -- A rollback from 2.0.0 kept it aside, with its indexes and policies.
    IF to_regclass('public.user_agents_kept_2_0_0') IS NOT NULL THEN
        ALTER TABLE public.user_agents_kept_2_0_0 RENAME TO user_agents;
        RETURN;
    END IF;
    CREATE TABLE public.user_agents (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
        agent_id uuid NOT NULL REFERENCES public.agents (id) ON DELETE CASCADE,
        original_agent_id uuid REFERENCES public.agents (id) ON DELETE SET NULL,
        is_user_copy boolean NOT NULL DEFAULT false,
        added_at timestamptz NOT NULL DEFAULT now(),
        last_used_at timestamptz,
        -- squawk-ignore prefer-bigint-over-int -- two billion uses of one agent by one user are out of reach
        usage_count integer NOT NULL DEFAULT 0,
        is_active boolean NOT NULL DEFAULT true,
        metadata jsonb NOT NULL DEFAULT '{}',
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        UNIQUE (user_id, agent_id)
    );

    CREATE INDEX idx_user_agents_user_id ON public.user_agents (user_id);
    CREATE INDEX idx_user_agents_agent_id ON public.user_agents (agent_id);
    CREATE INDEX idx_user_agents_original_agent_id ON public.user_agents (original_agent_id);
    CREATE INDEX idx_user_agents_added_at ON public.user_agents (added_at DESC);

    CREATE POLICY user_agents_select_own ON public.user_agents FOR SELECT TO authenticated
        USING (user_id = auth.uid());
    CREATE POLICY user_agents_insert_own ON public.user_agents FOR INSERT TO authenticated
        WITH CHECK (user_id = auth.uid());
    CREATE POLICY user_agents_update_own ON public.user_agents FOR UPDATE TO authenticated
        USING (user_id = auth.uid()) WITH CHECK (user_id = auth.uid());
    CREATE POLICY user_agents_service_role ON public.user_agents FOR ALL TO service_role
        USING (true) WITH CHECK (true);
END
$table$;

ALTER TABLE public.user_agents ENABLE ROW LEVEL SECURITY;
-- A platform may grant every new table of public to everyone by default privileges.
REVOKE ALL ON public.user_agents FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT, INSERT, UPDATE ON public.user_agents TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.user_agents TO service_role;
