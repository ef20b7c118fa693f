-- Rows are kept for the next upgrade, readable by the owner only, with everything that earlier rollbacks kept of them.
DO $down$
BEGIN
    IF EXISTS (SELECT FROM public.user_agents) THEN
        REVOKE ALL ON public.user_agents FROM PUBLIC, anon, authenticated, service_role;
        ALTER TABLE public.user_agents RENAME TO user_agents_kept_2_0_0;
    ELSE
        -- They have foreign keys to it, so they are empty, too.
        DROP TABLE IF EXISTS public.user_agents_kept_4_0_0, public.user_agents_kept_3_0_0;
        DROP TABLE public.user_agents;
    END IF;
END
$down$;
