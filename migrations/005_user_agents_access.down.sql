-- squawk-ignore-file ban-drop-view, ban-drop-function -- a rollback removes what the upgrade created

DROP TRIGGER user_agents_auto_quality ON public.user_agents;
DROP TRIGGER user_agents_updated_at ON public.user_agents;

REVOKE DELETE ON public.user_agents FROM authenticated;
DROP POLICY user_agents_select_team ON public.user_agents;
DROP POLICY user_agents_delete_own ON public.user_agents;
ALTER POLICY user_agents_update_own ON public.user_agents
    USING (user_id = auth.uid()) WITH CHECK (user_id = auth.uid());
ALTER POLICY user_agents_insert_own ON public.user_agents WITH CHECK (user_id = auth.uid());
ALTER POLICY user_agents_select_own ON public.user_agents USING (user_id = auth.uid());

DROP VIEW public.user_recent_agents;
DROP VIEW public.user_popular_agents;
DROP VIEW public.user_favorite_agents;
DROP VIEW public.user_agents_with_details;

DROP FUNCTION public.user_agents_set_quality();
DROP FUNCTION public.user_agents_set_updated_at();
DROP FUNCTION public.restore_user_agent(uuid, uuid);
DROP FUNCTION public.soft_delete_user_agent(uuid, uuid);
DROP FUNCTION public.track_agent_usage(uuid, uuid, boolean, bigint, numeric, integer);
DROP FUNCTION public.add_user_agent(uuid, uuid, text, text);
DROP FUNCTION public.calculate_agent_quality_score(numeric, bigint, bigint, bigint);

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
