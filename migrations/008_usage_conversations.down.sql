-- Rows are kept for the next upgrade, readable by the owner only.
DO $down$
BEGIN
    IF EXISTS (SELECT FROM public.user_agent_conversations) THEN
        DROP POLICY user_agent_conversations_service_role ON public.user_agent_conversations;
        REVOKE ALL ON public.user_agent_conversations FROM PUBLIC, anon, authenticated, service_role;
        ALTER TABLE public.user_agent_conversations RENAME TO user_agent_conversations_kept_4_0_0;
    ELSE
        DROP TABLE public.user_agent_conversations;
    END IF;
END
$down$;
