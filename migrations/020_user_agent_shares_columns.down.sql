-- version: 4.0.0
-- transaction: off
-- squawk-disable-assume-in-transaction
--
-- Shares that expire are removed from is_shared, shared_with and team_id, since 3.0.0 would never end them; the others
-- stay in them.

REVOKE INSERT, UPDATE, DELETE ON public.user_agent_shares FROM authenticated, service_role;

DO $lasting$
DECLARE
    v_reached uuid := '00000000-0000-0000-0000-000000000000';
    v_chunk uuid[];
BEGIN
    -- The upgrade or this rollback may have stopped after any statement.
    IF to_regprocedure('public.user_agents_reflect_shares(uuid[], boolean)') IS NULL
       -- Without it the upgrade stopped before all columns were copied: they contain more than the shares.
       OR NOT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgname = 'user_agent_shares_deleted') THEN
        RETURN;
    END IF;
    LOOP
        v_chunk := ARRAY(
            SELECT DISTINCT user_agent_id FROM public.user_agent_shares
             WHERE expires_at IS NOT NULL AND user_agent_id > v_reached
             ORDER BY user_agent_id LIMIT 100);
        EXIT WHEN cardinality(v_chunk) = 0;
        v_reached := v_chunk[cardinality(v_chunk)];
        -- The trigger would end the shares that the columns no longer contain.
        ALTER TABLE public.user_agents DISABLE TRIGGER user_agents_take_shares;
        PERFORM public.user_agents_reflect_shares(v_chunk, true);
        ALTER TABLE public.user_agents ENABLE TRIGGER user_agents_take_shares;
        COMMIT;
    END LOOP;
END
$lasting$;

-- One statement, so that nothing is shared between its parts.
DO $down$
BEGIN
    DROP POLICY IF EXISTS "Team members can view shared agents" ON public.user_agents;
    CREATE POLICY "Team members can view shared agents" ON public.user_agents FOR SELECT TO authenticated
        USING (
            is_shared
            AND deleted_at IS NULL
            AND (
                (SELECT auth.uid()) = ANY (shared_with)
                OR team_id IN (
                    SELECT membership.team_id FROM public.user_role_assignments AS membership
                    WHERE membership.user_id = (SELECT auth.uid())
                )
            )
        );
    DROP TRIGGER IF EXISTS user_agents_take_shares ON public.user_agents;
    DROP TRIGGER IF EXISTS user_agents_take_new_shares ON public.user_agents;
    DROP TRIGGER IF EXISTS user_agents_delete_shares ON public.user_agents;

    DROP TRIGGER IF EXISTS user_agent_shares_inserted ON public.user_agent_shares;
    DROP TRIGGER IF EXISTS user_agent_shares_updated ON public.user_agent_shares;
    DROP TRIGGER IF EXISTS user_agent_shares_deleted ON public.user_agent_shares;
    DROP FUNCTION IF EXISTS public.user_agents_delete_shares();
    DROP FUNCTION IF EXISTS public.user_agent_shares_changed();
    DROP FUNCTION IF EXISTS public.user_agents_take_shares();
    DROP FUNCTION IF EXISTS public.user_agents_reflect_shares(uuid[], boolean);
    DROP FUNCTION IF EXISTS public.user_agents_show_shares(uuid, boolean, uuid[], uuid);
END
$down$;
COMMENT ON POLICY "Team members can view shared agents" ON public.user_agents IS 'Users see live rows that are shared with them or a team of theirs; until 4.0.0.';
