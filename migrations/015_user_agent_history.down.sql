-- squawk-ignore-file ban-drop-function -- a rollback removes what the upgrade created

DROP TRIGGER user_agents_record_delete ON public.user_agents;
DROP TRIGGER user_agents_record_rating ON public.user_agents;
DROP TRIGGER user_agents_record_change ON public.user_agents;
DROP FUNCTION public.user_agents_record_delete();
DROP FUNCTION public.user_agents_record_change();
DROP FUNCTION public.user_agent_history_ensure_month(date);

-- The audit trail is kept for the next upgrade, readable by the owner only.
DO $trail$
BEGIN
    IF EXISTS (SELECT FROM public.user_agent_history) THEN
        REVOKE ALL ON public.user_agent_history FROM authenticated, service_role;
        ALTER TABLE public.user_agent_history RENAME TO user_agent_history_kept_4_0_0;
    ELSE
        DROP TABLE public.user_agent_history;
    END IF;
END
$trail$;
