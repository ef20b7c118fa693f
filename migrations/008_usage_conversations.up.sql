-- version: 4.0.0
-- lock_timeout: 100ms
--
-- Which conversations of a pair were counted, so that conversation_count counts each of them once.

-- A rollback from 4.0.0 kept the rows under another name.
-- squawk-ignore renaming-table -- nothing uses the kept table
ALTER TABLE IF EXISTS public.user_agent_conversations_kept_4_0_0 RENAME TO user_agent_conversations;
CREATE TABLE IF NOT EXISTS public.user_agent_conversations (
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    PRIMARY KEY (user_id, agent_id, conversation_id)
) WITH (autovacuum_vacuum_cost_limit = 2000);
ALTER TABLE public.user_agent_conversations ENABLE ROW LEVEL SECURITY;
-- A platform's default privileges may have granted more than SELECT.
REVOKE ALL ON public.user_agent_conversations FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.user_agent_conversations TO service_role;
-- For a service_role that could not be given BYPASSRLS.
CREATE POLICY user_agent_conversations_service_role ON public.user_agent_conversations
    FOR SELECT TO service_role USING (true);

DO $comments$
BEGIN
    COMMENT ON TABLE public.user_agent_conversations IS 'The conversations of each pair that were counted, so that each is counted once; written by the workers.';
    COMMENT ON COLUMN public.user_agent_conversations.user_id IS 'The user of the pair.';
    COMMENT ON COLUMN public.user_agent_conversations.agent_id IS 'The agent of the pair.';
    COMMENT ON COLUMN public.user_agent_conversations.conversation_id IS 'The conversation.';
    COMMENT ON INDEX public.user_agent_conversations_pkey IS 'Finds whether a conversation of a pair was counted.';
    COMMENT ON POLICY user_agent_conversations_service_role ON public.user_agent_conversations IS 'A service_role without BYPASSRLS reads every conversation.';
END
$comments$;
