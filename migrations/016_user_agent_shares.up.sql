-- version: 4.0.0
-- lock_timeout: 100ms
--
-- Shares: a user or team may view, use or edit another user's row, optionally until some time. Nobody writes them before
-- 020 keeps them and the columns of 3.0.0 in step.
--
-- squawk-ignore-file prefer-robust-stmts -- one transaction
-- squawk-ignore-file require-concurrent-index-creation -- nobody writes the table before a later migration

-- A rollback from 4.0.0 kept them aside.
DO $kept$
BEGIN
    IF to_regclass('public.user_agent_shares_kept_4_0_0') IS NOT NULL THEN
        ALTER TABLE public.user_agent_shares_kept_4_0_0 RENAME TO user_agent_shares;
    END IF;
END
$kept$;

-- No foreign key: shared_with and team_id never had one. A trigger deletes the shares of a deleted row.
CREATE TABLE IF NOT EXISTS public.user_agent_shares (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_agent_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    shared_with_user uuid,
    shared_with_team uuid,
    permission text NOT NULL DEFAULT 'view' CHECK (permission IN ('view', 'use', 'edit')),
    expires_at timestamptz CHECK (isfinite(expires_at)),
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by uuid DEFAULT auth.uid(),
    accepted_by uuid[] NOT NULL DEFAULT '{}',
    declined_by uuid[] NOT NULL DEFAULT '{}',
    CONSTRAINT user_agent_shares_one_target CHECK (num_nonnulls(shared_with_user, shared_with_team) = 1),
    CONSTRAINT user_agent_shares_target_key
        UNIQUE NULLS NOT DISTINCT (user_agent_id, shared_with_user, shared_with_team)
);
CREATE INDEX IF NOT EXISTS idx_user_agent_shares_owner_id ON public.user_agent_shares (owner_id);
CREATE INDEX IF NOT EXISTS idx_user_agent_shares_user ON public.user_agent_shares (shared_with_user)
    WHERE shared_with_user IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_user_agent_shares_team ON public.user_agent_shares (shared_with_team)
    WHERE shared_with_team IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_user_agent_shares_expires_at ON public.user_agent_shares (expires_at)
    WHERE expires_at IS NOT NULL;

-- 020 grants writing.
ALTER TABLE public.user_agent_shares ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON public.user_agent_shares FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.user_agent_shares TO authenticated, service_role;

CREATE POLICY user_agent_shares_own ON public.user_agent_shares FOR ALL TO authenticated
    USING (owner_id = (SELECT auth.uid())) WITH CHECK (owner_id = (SELECT auth.uid()));
CREATE POLICY user_agent_shares_select_received ON public.user_agent_shares FOR SELECT TO authenticated
    USING (
        shared_with_user = (SELECT auth.uid())
        OR shared_with_team = ANY (ARRAY(
            SELECT membership.team_id FROM public.user_role_assignments AS membership
            WHERE membership.user_id = (SELECT auth.uid())
        ))
    );
CREATE POLICY user_agent_shares_service_role ON public.user_agent_shares FOR ALL TO service_role
    USING (true) WITH CHECK (true);

-- Returns the ids of the rows that others share with the caller at this moment. An array, evaluated once per query, limits
-- policies to two index look-ups; PL/pgSQL keeps the plan for the session. Runs with the caller's rights: the policies of
-- shares and memberships apply.
CREATE FUNCTION public.user_agent_ids_shared_with_me(p_permissions text[]) RETURNS uuid[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ARRAY(
        SELECT user_agent_id FROM public.user_agent_shares
         WHERE (shared_with_user = (SELECT auth.uid())
                OR shared_with_team = ANY (ARRAY(
                    SELECT membership.team_id FROM public.user_role_assignments AS membership
                     WHERE membership.user_id = (SELECT auth.uid()))))
           AND (SELECT auth.uid()) <> ALL (declined_by)
           AND permission = ANY (p_permissions)
           AND (expires_at IS NULL OR expires_at > now()));
END $$;
REVOKE ALL ON FUNCTION public.user_agent_ids_shared_with_me(text[]) FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION public.user_agent_ids_shared_with_me(text[]) TO authenticated;

-- Sets the owner to the user of the row, ignoring the caller's value; the policy then compares it with the caller. The
-- owner of a row that does not exist is NULL: the policy refuses it with the same error as another user's row. No lock:
-- rows are locked together, in the order of their ids, when all shares of the statement are known.
CREATE FUNCTION public.user_agent_shares_set_owner() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.owner_id := (SELECT user_id FROM public.user_agents WHERE id = NEW.user_agent_id);
    RETURN NEW;
END $$;

REVOKE ALL ON FUNCTION public.user_agent_shares_set_owner() FROM PUBLIC, anon, authenticated, service_role;
CREATE TRIGGER user_agent_shares_set_owner BEFORE INSERT ON public.user_agent_shares
    FOR EACH ROW EXECUTE FUNCTION public.user_agent_shares_set_owner();

-- Changes no row and blocks no client.
DO $comments$
BEGIN
    COMMENT ON TABLE public.user_agent_shares IS 'Who else may view, use or edit a row of user_agents; written by the owner of the row, and by triggers where an application of 3.0.0 writes is_shared, shared_with and team_id.';
    COMMENT ON COLUMN public.user_agent_shares.id IS 'Identifies the share.';
    COMMENT ON COLUMN public.user_agent_shares.user_agent_id IS 'Id of the shared row; never changes.';
    COMMENT ON COLUMN public.user_agent_shares.owner_id IS 'The user of the row, set by a trigger; kept here so that no policy of this table reads user_agents, whose policies read this one.';
    COMMENT ON COLUMN public.user_agent_shares.shared_with_user IS 'The user who receives the share; NULL: a team does.';
    COMMENT ON COLUMN public.user_agent_shares.shared_with_team IS 'The team whose members receive the share; NULL: a user does.';
    COMMENT ON COLUMN public.user_agent_shares.permission IS 'view, use or edit: use includes view and edit includes use; usage always counts for the user who uses, never for the one who shares.';
    COMMENT ON COLUMN public.user_agent_shares.expires_at IS 'When the share ends; NULL: never by itself.';
    COMMENT ON COLUMN public.user_agent_shares.created_at IS 'When the share was made.';
    COMMENT ON COLUMN public.user_agent_shares.created_by IS 'auth.uid() of the session that made the share; NULL where a service did.';
    COMMENT ON COLUMN public.user_agent_shares.accepted_by IS 'Receivers who accepted; a share gives access until a receiver declines it, and is pending until it is accepted.';
    COMMENT ON COLUMN public.user_agent_shares.declined_by IS 'Receivers who declined and have no access; a member who declines the share of a team ends only the access of that member.';
    COMMENT ON INDEX public.user_agent_shares_pkey IS 'Finds a share by its id.';
    COMMENT ON INDEX public.user_agent_shares_target_key IS 'Keeps one share for each row and receiver; finds the shares of a row.';
    COMMENT ON INDEX public.idx_user_agent_shares_owner_id IS 'Finds the shares that a user made.';
    COMMENT ON INDEX public.idx_user_agent_shares_user IS 'Finds the shares that a user received.';
    COMMENT ON INDEX public.idx_user_agent_shares_team IS 'Finds the shares that a team received.';
    COMMENT ON INDEX public.idx_user_agent_shares_expires_at IS 'Finds the shares that end.';
    COMMENT ON POLICY user_agent_shares_own ON public.user_agent_shares IS 'Owners see, make, change and end the shares of their rows.';
    COMMENT ON POLICY user_agent_shares_select_received ON public.user_agent_shares IS 'Users see the shares that they or a team of theirs received.';
    COMMENT ON POLICY user_agent_shares_service_role ON public.user_agent_shares IS 'A service_role without BYPASSRLS sees and changes every share.';
    COMMENT ON FUNCTION public.user_agent_ids_shared_with_me IS 'Returns the ids of rows that others share with the caller at this moment, with one of these permissions.';
    COMMENT ON FUNCTION public.user_agent_shares_set_owner IS 'Trigger function: sets owner_id to the user of the shared row.';
END
$comments$;
