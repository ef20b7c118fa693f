-- squawk-ignore-file ban-drop-function -- a rollback removes what the upgrade created
--
-- All shares are kept in user_agent_shares_kept_4_0_0, from which a later upgrade restores them.

DROP TRIGGER user_agent_shares_set_owner ON public.user_agent_shares;
DROP FUNCTION public.user_agent_shares_set_owner();
DROP FUNCTION public.user_agent_ids_shared_with_me(text[]);
DO $shares$
BEGIN
    IF EXISTS (SELECT FROM public.user_agent_shares) THEN
        -- They refer to the table of memberships, which may be dropped.
        DROP POLICY user_agent_shares_own ON public.user_agent_shares;
        DROP POLICY user_agent_shares_select_received ON public.user_agent_shares;
        DROP POLICY user_agent_shares_service_role ON public.user_agent_shares;
        REVOKE ALL ON public.user_agent_shares FROM authenticated, service_role;
        ALTER TABLE public.user_agent_shares RENAME TO user_agent_shares_kept_4_0_0;
    ELSE
        DROP TABLE public.user_agent_shares;
    END IF;
END
$shares$;
