-- version: 4.0.0
-- transaction: off
-- squawk-disable-assume-in-transaction
--
-- Shares that expire are removed from is_shared, shared_with and team_id, since 3.0.0 would never end them; the others
-- stay in them. All shares are kept in user_agent_shares_kept_4_0_0, from which a later upgrade restores them.

DO $close$
BEGIN
    -- IF: the upgrade or this rollback may have stopped after any statement.
    IF to_regclass('public.user_agent_shares') IS NOT NULL THEN
        REVOKE INSERT, UPDATE, DELETE ON public.user_agent_shares FROM authenticated, service_role;
    END IF;
END
$close$;

DO $lasting$
DECLARE
    v_reached uuid := '00000000-0000-0000-0000-000000000000';
    v_chunk uuid[];
BEGIN
    IF to_regclass('public.user_agent_shares') IS NULL
       OR to_regprocedure('public.user_agents_reflect_shares(uuid[], boolean)') IS NULL
       -- Without it the upgrade stopped before all columns were copied: they contain more than the shares.
       OR NOT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgname = 'user_agent_shares_changed') THEN
        RETURN;
    END IF;
    LOOP
        v_chunk := ARRAY(
            SELECT DISTINCT user_agent_id FROM public.user_agent_shares
             WHERE expires_at IS NOT NULL AND user_agent_id > v_reached
             ORDER BY user_agent_id LIMIT 100);
        EXIT WHEN cardinality(v_chunk) = 0;
        v_reached := v_chunk[cardinality(v_chunk)];
        PERFORM public.user_agents_reflect_shares(v_chunk, true);
        COMMIT;
    END LOOP;
END
$lasting$;

-- One statement, so that nothing is shared between its parts.
DO $down$
BEGIN
    DROP POLICY IF EXISTS "Editors can update shared agents" ON public.user_agents;
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
    DROP TRIGGER IF EXISTS user_agents_guard_shared ON public.user_agents;
    DROP TRIGGER IF EXISTS user_agents_take_shares ON public.user_agents;
    DROP TRIGGER IF EXISTS user_agents_take_new_shares ON public.user_agents;
    DROP TRIGGER IF EXISTS user_agents_delete_shares ON public.user_agents;

    IF to_regclass('public.user_agent_shares') IS NOT NULL THEN
        DROP TRIGGER IF EXISTS user_agent_shares_changed ON public.user_agent_shares;
        DROP TRIGGER IF EXISTS user_agent_shares_set_owner ON public.user_agent_shares;
        IF EXISTS (SELECT FROM public.user_agent_shares) THEN
            -- They refer to the table of memberships, which may be dropped.
            DROP POLICY IF EXISTS user_agent_shares_own ON public.user_agent_shares;
            DROP POLICY IF EXISTS user_agent_shares_select_received ON public.user_agent_shares;
            DROP POLICY IF EXISTS user_agent_shares_service_role ON public.user_agent_shares;
            REVOKE ALL ON public.user_agent_shares FROM authenticated, service_role;
            ALTER TABLE public.user_agent_shares RENAME TO user_agent_shares_kept_4_0_0;
        ELSE
            DROP TABLE public.user_agent_shares;
        END IF;
    END IF;

    DROP FUNCTION IF EXISTS public.user_agents_guard_shared();
    DROP FUNCTION IF EXISTS public.user_agents_delete_shares();
    DROP FUNCTION IF EXISTS public.user_agent_shares_changed();
    DROP FUNCTION IF EXISTS public.user_agents_take_shares();
    DROP FUNCTION IF EXISTS public.user_agents_reflect_shares(uuid[], boolean);
    DROP FUNCTION IF EXISTS public.user_agent_shares_set_owner();
    DROP FUNCTION IF EXISTS public.user_agents_shared_with_me(text[]);
END
$down$;
