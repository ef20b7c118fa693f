-- squawk-ignore-file ban-drop-function -- a rollback removes what the upgrade created

DROP TRIGGER user_agents_forbid_pair_change ON public.user_agents;
DROP FUNCTION public.user_agents_forbid_pair_change();
DROP TRIGGER user_agents_retire_pair ON public.user_agents;
DROP FUNCTION public.user_agents_retire_pair(), public.usage_retire_pairs(uuid[], uuid[]);

-- Rows are kept for the next upgrade, readable by the owner only.
DO $down$
BEGIN
    IF EXISTS (SELECT FROM public.usage_retired_daily) THEN
        DROP POLICY usage_retired_daily_service_role ON public.usage_retired_daily;
        REVOKE ALL ON public.usage_retired_daily FROM PUBLIC, anon, authenticated, service_role;
        ALTER TABLE public.usage_retired_daily RENAME TO usage_retired_daily_kept_4_0_0;
    ELSE
        DROP TABLE public.usage_retired_daily;
    END IF;
END
$down$;
