-- version: 4.0.0
-- transaction: off
-- lock_timeout: 100ms
--
-- Shares: a user or team may view, use or edit another user's row, optionally until some time. Applications of 3.0.0
-- continue with is_shared, shared_with and team_id: triggers copy these columns to shares, and shares to these columns as
-- far as the columns can express them.
-- Each statement is short, or locks few rows at a time, and can be repeated after a kill.
--
-- squawk-disable-assume-in-transaction
-- squawk-ignore-file prefer-robust-stmts -- what has no IF NOT EXISTS changes nothing when it is repeated
-- squawk-ignore-file require-concurrent-index-creation -- nobody writes the table before the last statement

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
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by uuid DEFAULT auth.uid(),
    CONSTRAINT user_agent_shares_one_target CHECK (num_nonnulls(shared_with_user, shared_with_team) = 1),
    CONSTRAINT user_agent_shares_target_key
        UNIQUE NULLS NOT DISTINCT (user_agent_id, shared_with_user, shared_with_team)
);
COMMENT ON COLUMN public.user_agent_shares.owner_id IS
    'the user of the row; kept here so that no policy of this table reads user_agents, whose policies read this one';
COMMENT ON COLUMN public.user_agent_shares.permission IS
    'use includes view and edit includes use; usage always counts for the user who uses, never for the one who shares';
CREATE INDEX IF NOT EXISTS idx_user_agent_shares_owner_id ON public.user_agent_shares (owner_id);
CREATE INDEX IF NOT EXISTS idx_user_agent_shares_user ON public.user_agent_shares (shared_with_user)
    WHERE shared_with_user IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_user_agent_shares_team ON public.user_agent_shares (shared_with_team)
    WHERE shared_with_team IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_user_agent_shares_expires_at ON public.user_agent_shares (expires_at)
    WHERE expires_at IS NOT NULL;

-- Writing is granted in the last statements, when everything else exists.
ALTER TABLE public.user_agent_shares ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON public.user_agent_shares FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.user_agent_shares TO authenticated, service_role;

DO $policies$
BEGIN
    DROP POLICY IF EXISTS user_agent_shares_select_received ON public.user_agent_shares;
    DROP POLICY IF EXISTS user_agent_shares_own ON public.user_agent_shares;
    DROP POLICY IF EXISTS user_agent_shares_service_role ON public.user_agent_shares;
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
END
$policies$;

-- Returns the rows that others share with the caller at this moment. An array, evaluated once per query, limits the
-- policies below to two index look-ups; PL/pgSQL keeps the plan for the session. Runs with the caller's rights: the
-- policies of shares and memberships apply.
CREATE OR REPLACE FUNCTION public.user_agents_shared_with_me(p_permissions text[]) RETURNS uuid[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ARRAY(
        SELECT user_agent_id FROM public.user_agent_shares
         WHERE (shared_with_user = (SELECT auth.uid())
                OR shared_with_team = ANY (ARRAY(
                    SELECT membership.team_id FROM public.user_role_assignments AS membership
                     WHERE membership.user_id = (SELECT auth.uid()))))
           AND permission = ANY (p_permissions)
           AND (expires_at IS NULL OR expires_at > now()));
END $$;
REVOKE ALL ON FUNCTION public.user_agents_shared_with_me(text[]) FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION public.user_agents_shared_with_me(text[]) TO authenticated;

-- Sets the owner to the user of the row, ignoring the caller's value; the policy then compares it with the caller. The
-- lock serializes two sessions that share the same row.
CREATE OR REPLACE FUNCTION public.user_agent_shares_set_owner() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT user_id INTO NEW.owner_id FROM public.user_agents WHERE id = NEW.user_agent_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE foreign_key_violation USING MESSAGE = format('there is no user_agents row %s to share', NEW.user_agent_id);
    END IF;
    RETURN NEW;
END $$;

-- Copies shares to columns. The columns can hold only one team: the one they hold already, or else that of the oldest
-- share. p_lasting leaves out shares that expire, which 3.0.0 would never end. The trigger calls it with the owner's
-- rights.
CREATE OR REPLACE FUNCTION public.user_agents_reflect_shares(p_ids uuid[], p_lasting boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM public.user_agents WHERE id = ANY (p_ids) ORDER BY id FOR NO KEY UPDATE;
    -- Pauses the trigger that copies columns to shares.
    PERFORM set_config('usage_worker.sharing', 'on', true);
    UPDATE public.user_agents AS ua
       SET is_shared = told.is_shared, shared_with = told.shared_with, team_id = told.team_id
      FROM (
        SELECT shown.id, count(s.id) > 0 AS is_shared,
               array_agg(s.shared_with_user ORDER BY s.created_at, s.id)
                   FILTER (WHERE s.shared_with_user IS NOT NULL) AS shared_with,
               (array_agg(s.shared_with_team
                          ORDER BY s.shared_with_team IS NOT DISTINCT FROM shown.team_id DESC, s.created_at, s.id)
                   FILTER (WHERE s.shared_with_team IS NOT NULL))[1] AS team_id
          FROM public.user_agents AS shown
          LEFT JOIN public.user_agent_shares AS s
            ON s.user_agent_id = shown.id AND (s.expires_at IS NULL OR (s.expires_at > now() AND NOT p_lasting))
         WHERE shown.id = ANY (p_ids)
         GROUP BY shown.id
      ) AS told
     WHERE ua.id = told.id
       AND (ua.is_shared, ua.shared_with, ua.team_id)
           IS DISTINCT FROM (told.is_shared, told.shared_with, told.team_id);
    PERFORM set_config('usage_worker.sharing', '', true);
END $$;

-- Copies columns to shares: only what the statement changed, so that a share that the columns cannot hold stays, unless
-- sharing ends altogether. Users and teams that are new in the columns may view, without expiry.
CREATE OR REPLACE FUNCTION public.user_agents_take_shares() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_users pg_catalog.uuid[] := '{}';
    v_team pg_catalog.uuid;
BEGIN
    IF current_setting('usage_worker.sharing', true) = 'on' THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('usage_worker.sharing', 'on', true);
    IF TG_OP = 'UPDATE' THEN
        IF OLD.is_shared THEN
            v_users := coalesce(OLD.shared_with, '{}');
            v_team := OLD.team_id;
        END IF;
        DELETE FROM public.user_agent_shares AS s
         WHERE s.user_agent_id = NEW.id
           AND ((OLD.is_shared AND NEW.is_shared IS NOT TRUE)
                OR (s.shared_with_user = ANY (v_users)
                    AND NOT EXISTS (SELECT FROM unnest(NEW.shared_with) AS still WHERE still = s.shared_with_user))
                OR (s.shared_with_team = v_team AND s.shared_with_team IS DISTINCT FROM NEW.team_id));
    END IF;
    IF NEW.is_shared THEN
        INSERT INTO public.user_agent_shares AS s (user_agent_id, owner_id, shared_with_user, shared_with_team)
        SELECT NEW.id, NEW.user_id, target.user_id, target.team_id
          FROM (
            SELECT DISTINCT named AS user_id, NULL::uuid AS team_id FROM unnest(NEW.shared_with) AS named
             WHERE named IS NOT NULL AND NOT EXISTS (SELECT FROM unnest(v_users) AS before WHERE before = named)
            UNION ALL
            SELECT NULL, NEW.team_id WHERE NEW.team_id IS NOT NULL AND NEW.team_id IS DISTINCT FROM v_team
          ) AS target
        ON CONFLICT (user_agent_id, shared_with_user, shared_with_team)
            DO UPDATE SET permission = 'view', expires_at = NULL WHERE s.expires_at <= now();
    END IF;
    PERFORM set_config('usage_worker.sharing', '', true);
    RETURN NULL;
END $$;

-- Records a changed share in the audit trail and copies it to the columns, unless it comes from them.
CREATE OR REPLACE FUNCTION public.user_agent_shares_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    v_id pg_catalog.uuid := coalesce(NEW.user_agent_id, OLD.user_agent_id);
    v_old pg_catalog.jsonb := to_jsonb(OLD);
    v_new pg_catalog.jsonb := to_jsonb(NEW);
BEGIN
    IF v_old = v_new THEN
        RETURN NULL;
    END IF;
    PERFORM public.user_agent_history_ensure_month(now()::date);
    INSERT INTO public.user_agent_history (user_agent_id, user_id, agent_id, action, changes)
    SELECT ua.id, ua.user_id, ua.agent_id, CASE TG_OP WHEN 'DELETE' THEN 'unshare' ELSE 'share' END,
           (
               SELECT jsonb_object_agg(told, jsonb_build_object('old', v_old -> told, 'new', v_new -> told))
                 FROM unnest(ARRAY['shared_with_user', 'shared_with_team', 'permission', 'expires_at']) AS told
                WHERE coalesce(v_old ->> told, v_new ->> told) IS NOT NULL
           )
      FROM public.user_agents AS ua WHERE ua.id = v_id;
    -- Not found: the row itself is being deleted, which is recorded already.
    IF FOUND AND current_setting('usage_worker.sharing', true) IS DISTINCT FROM 'on' THEN
        PERFORM public.user_agents_reflect_shares(ARRAY[v_id], false);
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION public.user_agents_delete_shares() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM public.user_agent_shares AS s USING gone WHERE s.user_agent_id = gone.id;
    RETURN NULL;
END $$;

-- Editors of another user's row may change its appearance and behaviour, but may neither delete nor share it.
CREATE OR REPLACE FUNCTION public.user_agents_guard_shared() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.user_id <> auth.uid() AND row_security_active('public.user_agents')
       AND NOT pg_has_role(current_user, 'service_role', 'MEMBER') THEN
        RAISE insufficient_privilege USING MESSAGE = 'only its own user may delete or share this row';
    END IF;
    RETURN NEW;
END $$;

REVOKE ALL ON FUNCTION public.user_agent_shares_set_owner(), public.user_agents_reflect_shares(uuid[], boolean),
    public.user_agents_take_shares(), public.user_agent_shares_changed(), public.user_agents_delete_shares(),
    public.user_agents_guard_shared() FROM PUBLIC, anon, authenticated, service_role;

CREATE OR REPLACE TRIGGER user_agent_shares_set_owner BEFORE INSERT ON public.user_agent_shares
    FOR EACH ROW EXECUTE FUNCTION public.user_agent_shares_set_owner();
-- From here on changes of the columns are copied; ingest names none of them.
CREATE OR REPLACE TRIGGER user_agents_delete_shares AFTER DELETE ON public.user_agents
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION public.user_agents_delete_shares();
CREATE OR REPLACE TRIGGER user_agents_take_new_shares AFTER INSERT ON public.user_agents
    FOR EACH ROW WHEN (NEW.is_shared) EXECUTE FUNCTION public.user_agents_take_shares();
CREATE OR REPLACE TRIGGER user_agents_take_shares
    AFTER UPDATE OF is_shared, shared_with, team_id ON public.user_agents FOR EACH ROW
    WHEN (OLD.is_shared IS DISTINCT FROM NEW.is_shared OR OLD.shared_with IS DISTINCT FROM NEW.shared_with OR OLD.team_id IS DISTINCT FROM NEW.team_id)
    EXECUTE FUNCTION public.user_agents_take_shares();
CREATE OR REPLACE TRIGGER user_agents_guard_shared
    BEFORE UPDATE OF deleted_at, is_shared, shared_with, team_id, share_settings
    ON public.user_agents FOR EACH ROW
    WHEN (OLD.deleted_at IS DISTINCT FROM NEW.deleted_at OR OLD.is_shared IS DISTINCT FROM NEW.is_shared OR OLD.shared_with IS DISTINCT FROM NEW.shared_with
          OR OLD.team_id IS DISTINCT FROM NEW.team_id OR OLD.share_settings IS DISTINCT FROM NEW.share_settings)
    EXECUTE FUNCTION public.user_agents_guard_shared();

-- Copies existing columns to shares. Kept shares that the columns of 3.0.0 no longer contain were ended there and are
-- deleted; with the team of the columns the other teams are deleted, too, which the columns could not hold. Shares that
-- expire were unknown to 3.0.0 and stay. Works in chunks of locked rows as in 013: a row that a client has locked is
-- skipped and locked alone at the end.
DO $take$
DECLARE
    v_reached uuid := '00000000-0000-0000-0000-000000000000';
    v_passed_over uuid[] := ARRAY[v_reached];
    v_taken integer := 0;
    v_chunk uuid[];
    v_locked uuid[];
BEGIN
    DELETE FROM public.user_agent_shares AS s
     WHERE NOT EXISTS (SELECT FROM public.user_agents AS ua WHERE ua.id = s.user_agent_id);
    COMMIT;
    LOOP
        v_chunk := ARRAY(SELECT id FROM public.user_agents WHERE id > v_reached ORDER BY id LIMIT 500);
        IF cardinality(v_chunk) > 0 THEN
            v_reached := v_chunk[cardinality(v_chunk)];
            v_chunk := ARRAY(
                SELECT ua.id FROM public.user_agents AS ua
                 WHERE ua.id = ANY (v_chunk)
                   AND ((ua.is_shared AND (ua.team_id IS NOT NULL OR cardinality(ua.shared_with) > 0))
                        OR EXISTS (SELECT FROM public.user_agent_shares AS s WHERE s.user_agent_id = ua.id)));
            v_locked := ARRAY(
                SELECT id FROM public.user_agents WHERE id = ANY (v_chunk) FOR NO KEY UPDATE SKIP LOCKED);
            v_passed_over := v_passed_over || ARRAY(SELECT unnest(v_chunk) EXCEPT SELECT unnest(v_locked));
        ELSE
            EXIT WHEN v_taken = cardinality(v_passed_over);
            v_taken := v_taken + 1;
            SET LOCAL lock_timeout = '10s';
            v_locked := ARRAY(SELECT id FROM public.user_agents WHERE id = v_passed_over[v_taken] FOR NO KEY UPDATE);
        END IF;

        PERFORM set_config('usage_worker.sharing', 'on', true);
        DELETE FROM public.user_agent_shares AS s
         USING public.user_agents AS ua
         WHERE s.user_agent_id = ANY (v_locked) AND ua.id = s.user_agent_id AND s.expires_at IS NULL
           AND NOT (
               ua.is_shared
               AND (EXISTS (SELECT FROM unnest(ua.shared_with) AS named WHERE named = s.shared_with_user)
                    OR (s.shared_with_team IS NOT NULL AND EXISTS (
                            SELECT FROM public.user_agent_shares AS named
                             WHERE named.user_agent_id = ua.id AND named.shared_with_team = ua.team_id))));
        INSERT INTO public.user_agent_shares (user_agent_id, owner_id, shared_with_user, shared_with_team, created_by)
        SELECT ua.id, ua.user_id, target.user_id, target.team_id, ua.user_id
          FROM public.user_agents AS ua
         CROSS JOIN LATERAL (
            SELECT DISTINCT named AS user_id, NULL::uuid AS team_id FROM unnest(ua.shared_with) AS named
             WHERE named IS NOT NULL
            UNION ALL
            SELECT NULL, ua.team_id WHERE ua.team_id IS NOT NULL
         ) AS target
         WHERE ua.id = ANY (v_locked) AND ua.is_shared
        ON CONFLICT (user_agent_id, shared_with_user, shared_with_team) DO NOTHING;
        -- Kept shares that expire are copied to the columns again.
        PERFORM public.user_agents_reflect_shares(
            ARRAY(SELECT user_agent_id FROM public.user_agent_shares
                   WHERE user_agent_id = ANY (v_locked) AND expires_at > now()), false);
        COMMIT;
    END LOOP;
END
$take$;

-- One statement, so that no row is hidden between two policies. user_agents_forbid_pair_change prevents an editor from
-- taking over a row, which the own-row policy would allow. PostgreSQL evaluates policies in reverse order of their names,
-- so that reading one's own rows does not evaluate those for shares.
DO $swap$
BEGIN
    DROP POLICY IF EXISTS "Team members can view shared agents" ON public.user_agents;
    DROP POLICY IF EXISTS "Editors can update shared agents" ON public.user_agents;
    CREATE POLICY "Team members can view shared agents" ON public.user_agents FOR SELECT TO authenticated
        USING (
            deleted_at IS NULL
            AND id = ANY ((SELECT public.user_agents_shared_with_me(ARRAY['view', 'use', 'edit']))::uuid[])
        );
    CREATE POLICY "Editors can update shared agents" ON public.user_agents FOR UPDATE TO authenticated
        USING (deleted_at IS NULL AND id = ANY ((SELECT public.user_agents_shared_with_me(ARRAY['edit']))::uuid[]));
END
$swap$;

CREATE OR REPLACE TRIGGER user_agent_shares_changed
    AFTER INSERT OR DELETE OR UPDATE OF permission, expires_at ON public.user_agent_shares
    FOR EACH ROW EXECUTE FUNCTION public.user_agent_shares_changed();
-- Row and recipient of a share never change: delete it and insert another.
GRANT INSERT (user_agent_id, shared_with_user, shared_with_team, permission, expires_at), DELETE,
    UPDATE (permission, expires_at) ON public.user_agent_shares TO authenticated;
GRANT INSERT, DELETE, UPDATE (permission, expires_at) ON public.user_agent_shares TO service_role;
