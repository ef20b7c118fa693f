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

-- Changes no row and blocks no client.
DO $comments$
BEGIN
    COMMENT ON TABLE public.user_agents IS 'One row for each pair of a user and an agent: the user''s settings, written by the application, and the counters of use, written by the workers and track_agent_usage().';
    COMMENT ON COLUMN public.user_agents.id IS 'Identifies the row; never changes.';
    COMMENT ON COLUMN public.user_agents.user_id IS 'The user who has the agent; never changes.';
    COMMENT ON COLUMN public.user_agents.agent_id IS 'The agent; never changes.';
    COMMENT ON COLUMN public.user_agents.original_agent_id IS 'The agent that a copy was made from; NULL if it is no copy or that agent was deleted.';
    COMMENT ON COLUMN public.user_agents.is_user_copy IS 'Whether the agent is the user''s own copy of another one; written by the application.';
    COMMENT ON COLUMN public.user_agents.added_at IS 'When the user added the agent; written by the default or the application.';
    COMMENT ON COLUMN public.user_agents.last_used_at IS 'Time of the newest counted event; NULL before the first; written by the workers.';
    COMMENT ON COLUMN public.user_agents.usage_count IS 'Number of uses, at most 2,147,483,647; written by the workers.';
    COMMENT ON COLUMN public.user_agents.is_active IS 'Whether the user has the agent in use; written by the application and by soft delete.';
    COMMENT ON COLUMN public.user_agents.metadata IS 'JSON object of the application; never read here.';
    COMMENT ON COLUMN public.user_agents.created_at IS 'When the row was inserted; written by the default.';
    COMMENT ON COLUMN public.user_agents.updated_at IS 'When the row last changed, counters included; written by a trigger and the workers.';
    COMMENT ON INDEX public.user_agents_pkey IS 'Finds a row by its id.';
    COMMENT ON INDEX public.user_agents_user_id_agent_id_key IS 'Keeps pairs unique; finds the row of a pair.';
    COMMENT ON INDEX public.idx_user_agents_user_id IS 'Finds the rows of a user, for lists and when the user is deleted.';
    COMMENT ON INDEX public.idx_user_agents_agent_id IS 'Finds the rows of an agent, also when the agent is deleted.';
    COMMENT ON INDEX public.idx_user_agents_original_agent_id IS 'Finds the copies of an agent, also when the agent is deleted.';
    COMMENT ON INDEX public.idx_user_agents_added_at IS 'Finds the agents that were added last.';
    COMMENT ON POLICY "Users can view their own" ON public.user_agents IS 'Users see their own rows.';
    COMMENT ON POLICY "Users can insert their own" ON public.user_agents IS 'Users insert rows for themselves.';
    COMMENT ON POLICY "Users can update their own" ON public.user_agents IS 'Users change their own rows.';
    COMMENT ON POLICY "Service role full access" ON public.user_agents IS 'A service_role without BYPASSRLS sees and changes every row.';
END
$comments$;
