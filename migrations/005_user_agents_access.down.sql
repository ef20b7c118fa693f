-- squawk-ignore-file ban-drop-view, ban-drop-function -- a rollback removes what the upgrade created
-- squawk-ignore-file renaming-object -- only policies are renamed, and no client names one

DROP TRIGGER user_agents_auto_quality ON public.user_agents;
DROP TRIGGER user_agents_updated_at ON public.user_agents;

REVOKE DELETE ON public.user_agents FROM authenticated;
DROP POLICY "Team members can view shared agents" ON public.user_agents;
DROP POLICY "Users can delete their own agent relationships" ON public.user_agents;
ALTER POLICY "Service role has full access" ON public.user_agents RENAME TO "Service role full access";
ALTER POLICY "Users can update their own agent relationships" ON public.user_agents
    RENAME TO "Users can update their own";
ALTER POLICY "Users can insert their own agent relationships" ON public.user_agents
    RENAME TO "Users can insert their own";
ALTER POLICY "Users can view their own agent relationships" ON public.user_agents RENAME TO "Users can view their own";
ALTER POLICY "Users can update their own" ON public.user_agents
    USING (user_id = auth.uid()) WITH CHECK (user_id = auth.uid());
ALTER POLICY "Users can insert their own" ON public.user_agents WITH CHECK (user_id = auth.uid());
ALTER POLICY "Users can view their own" ON public.user_agents USING (user_id = auth.uid());

-- IF EXISTS: the rollback text of the history may have dropped them already.
DROP VIEW IF EXISTS public.user_recent_agents;
DROP VIEW IF EXISTS public.user_popular_agents;
DROP VIEW IF EXISTS public.user_favorite_agents;
DROP VIEW IF EXISTS public.user_agents_with_details;

DROP FUNCTION public.user_agents_set_quality();
DROP FUNCTION public.user_agents_set_updated_at();
DROP FUNCTION IF EXISTS public.restore_user_agent(uuid, uuid);
DROP FUNCTION IF EXISTS public.soft_delete_user_agent(uuid, uuid);
DROP FUNCTION IF EXISTS public.track_agent_usage(uuid, uuid, boolean, bigint, numeric, integer);
DROP FUNCTION IF EXISTS public.add_user_agent(uuid, uuid, text, text);
DROP FUNCTION IF EXISTS public.calculate_agent_quality_score(numeric, bigint, bigint, bigint);

-- Memberships that were added since are kept for the next upgrade, readable by the owner only.
DO $assignments$
BEGIN
    -- There are no marks if psql ran the files without the runner.
    IF to_regclass('public.usage_migration_objects') IS NULL THEN
        RETURN;
    END IF;
    IF EXISTS (
        SELECT FROM public.usage_migration_objects WHERE kind = 'table' AND name = 'user_role_assignments'
    ) THEN
        IF EXISTS (SELECT FROM public.user_role_assignments) THEN
            REVOKE ALL ON public.user_role_assignments FROM authenticated, service_role;
            ALTER TABLE public.user_role_assignments RENAME TO user_role_assignments_kept_3_0_0;
        ELSE
            DROP TABLE public.user_role_assignments;
        END IF;
    END IF;
END
$assignments$;
