-- version: 2.0.0
-- lock_timeout: 100ms

DO $table$
BEGIN
    -- A rollback from 2.0.0 kept it aside, with its indexes and policies.
    IF to_regclass('public.user_agents_kept_2_0_0') IS NOT NULL THEN
        ALTER TABLE public.user_agents_kept_2_0_0 RENAME TO user_agents;
        RETURN;
    END IF;
    -- As the migration history writes it. Clients may write NULL, which counts as the default.
    CREATE TABLE public.user_agents (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
        agent_id uuid NOT NULL REFERENCES public.agents (id) ON DELETE CASCADE,
        original_agent_id uuid REFERENCES public.agents (id) ON DELETE SET NULL,
        is_user_copy boolean DEFAULT false,
        added_at timestamptz DEFAULT now(),
        last_used_at timestamptz,
        -- squawk-ignore prefer-bigint-over-int -- the type of the history; a pair that would exceed it is refused
        usage_count integer DEFAULT 0,
        is_active boolean DEFAULT true,
        metadata jsonb DEFAULT '{}',
        created_at timestamptz DEFAULT now(),
        updated_at timestamptz DEFAULT now(),
        UNIQUE (user_id, agent_id)
    );

    CREATE INDEX idx_user_agents_user_id ON public.user_agents (user_id);
    CREATE INDEX idx_user_agents_agent_id ON public.user_agents (agent_id);
    CREATE INDEX idx_user_agents_original_agent_id ON public.user_agents (original_agent_id);
    CREATE INDEX idx_user_agents_added_at ON public.user_agents (added_at);

    CREATE POLICY "Users can view their own" ON public.user_agents FOR SELECT TO authenticated
        USING (user_id = auth.uid());
    CREATE POLICY "Users can insert their own" ON public.user_agents FOR INSERT TO authenticated
        WITH CHECK (user_id = auth.uid());
    CREATE POLICY "Users can update their own" ON public.user_agents FOR UPDATE TO authenticated
        USING (user_id = auth.uid()) WITH CHECK (user_id = auth.uid());
    CREATE POLICY "Service role full access" ON public.user_agents FOR ALL TO service_role
        USING (true) WITH CHECK (true);
END
$table$;

ALTER TABLE public.user_agents ENABLE ROW LEVEL SECURITY;
-- A platform may grant every new table of public to everyone by default privileges.
REVOKE ALL ON public.user_agents FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT, INSERT, UPDATE ON public.user_agents TO authenticated;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.user_agents TO service_role;
