-- version: 4.0.0
-- transaction: off
-- lock_timeout: 100ms
--
-- Applications of 3.0.0 continue with is_shared, shared_with and team_id: triggers copy these columns to shares, and shares
-- to these columns as far as the columns can express them.
-- Each statement is short, or locks few rows at a time, and can be repeated after a kill.
--
-- squawk-disable-assume-in-transaction
-- squawk-ignore-file prefer-robust-stmts -- what has no IF NOT EXISTS changes nothing when it is repeated

-- Tells whether these values of the columns say what the shares of the row say; if they do, nothing is left to copy in
-- either direction, and the triggers below end by themselves. They trust nothing else: a setting or the depth of triggers
-- is in the hands of whoever writes. Without sequential scans: a plan that was made while there were few shares is kept
-- for the whole statement, and one INSERT of 20,000 shared rows took minutes.
CREATE OR REPLACE FUNCTION public.user_agents_show_shares(
    p_id uuid, p_is_shared boolean, p_shared_with uuid[], p_team_id uuid
) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_users pg_catalog.uuid[];
    v_teams pg_catalog.uuid[];
BEGIN
    SELECT coalesce(array_agg(s.shared_with_user ORDER BY s.shared_with_user) FILTER (WHERE s.shared_with_user IS NOT NULL), '{}'),
           coalesce(array_agg(s.shared_with_team) FILTER (WHERE s.shared_with_team IS NOT NULL), '{}')
      INTO v_users, v_teams
      FROM public.user_agent_shares AS s
     WHERE s.user_agent_id = p_id AND (s.expires_at IS NULL OR s.expires_at > now())
       AND (s.shared_with_user = ANY (s.declined_by)) IS NOT TRUE;
    IF p_is_shared IS NOT TRUE THEN
        RETURN v_users = '{}' AND v_teams = '{}';
    END IF;
    RETURN v_users = ARRAY(SELECT DISTINCT named FROM unnest(p_shared_with) AS named WHERE named IS NOT NULL ORDER BY named)
       AND CASE WHEN p_team_id IS NULL THEN v_teams = '{}' ELSE p_team_id = ANY (v_teams) END;
END $$;

-- Copies shares to columns, without those that their receiver declined. The columns can hold only one team: the one they
-- hold already, or else that of the oldest share. Columns that say the same already keep what was written there. p_lasting
-- leaves out shares that expire, which 3.0.0 would never end. The trigger calls it with the owner's rights.
CREATE OR REPLACE FUNCTION public.user_agents_reflect_shares(p_ids uuid[], p_lasting boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_ids pg_catalog.uuid[];
BEGIN
    -- In the order of ingest.
    PERFORM FROM public.user_agents WHERE id = ANY (p_ids) ORDER BY user_id, agent_id FOR NO KEY UPDATE;
    v_ids := ARRAY(
        SELECT id FROM public.user_agents
         WHERE id = ANY (p_ids)
           AND (p_lasting OR NOT public.user_agents_show_shares(id, is_shared, shared_with, team_id)));
    IF v_ids = '{}' THEN
        RETURN;
    END IF;
    UPDATE public.user_agents AS ua
       SET is_shared = derived.is_shared, shared_with = derived.shared_with, team_id = derived.team_id
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
           AND (s.shared_with_user = ANY (s.declined_by)) IS NOT TRUE
         WHERE shown.id = ANY (v_ids)
         GROUP BY shown.id
      ) AS derived
     WHERE ua.id = derived.id
       AND (ua.is_shared, ua.shared_with, ua.team_id)
           IS DISTINCT FROM (derived.is_shared, derived.shared_with, derived.team_id);
END $$;

-- Copies columns to shares: only what the statement changed, so that a share that the columns cannot hold stays, unless
-- sharing ends altogether. Users and teams that are new in the columns may view, without expiry; to a user who declined,
-- this is a new offer. One call for each changed row, 1 to 3 ms: a statement trigger with transition tables cannot name
-- columns and would keep both versions of each row that ingest counts.
CREATE OR REPLACE FUNCTION public.user_agents_take_shares() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_users pg_catalog.uuid[] := '{}';
    v_team pg_catalog.uuid;
    v_was_shared pg_catalog.bool := TG_OP = 'UPDATE' AND OLD.is_shared;
BEGIN
    IF v_was_shared THEN
        v_users := coalesce(OLD.shared_with, '{}');
        v_team := OLD.team_id;
    END IF;
    -- user_agents_reflect_shares never replaces a team that still has its share: whoever writes the columns does.
    IF public.user_agents_show_shares(NEW.id, NEW.is_shared, NEW.shared_with, NEW.team_id) AND NOT EXISTS (
        SELECT FROM public.user_agent_shares AS s
         WHERE s.user_agent_id = NEW.id AND s.shared_with_team = v_team AND v_team <> NEW.team_id
           AND (s.expires_at IS NULL OR s.expires_at > now())
    ) THEN
        RETURN NULL;
    END IF;
    -- One statement: between two, the columns would follow the first.
    WITH ended AS (
        DELETE FROM public.user_agent_shares AS s
         WHERE v_was_shared AND s.user_agent_id = NEW.id
           AND (NEW.is_shared IS NOT TRUE
                OR (s.shared_with_user = ANY (v_users)
                    AND NOT EXISTS (SELECT FROM unnest(NEW.shared_with) AS still WHERE still = s.shared_with_user))
                OR (s.shared_with_team = v_team AND s.shared_with_team IS DISTINCT FROM NEW.team_id))
    )
    INSERT INTO public.user_agent_shares AS s (user_agent_id, owner_id, shared_with_user, shared_with_team)
    SELECT NEW.id, NEW.user_id, target.user_id, target.team_id
      FROM (
        SELECT DISTINCT named AS user_id, NULL::uuid AS team_id FROM unnest(NEW.shared_with) AS named
         WHERE named IS NOT NULL AND NOT EXISTS (SELECT FROM unnest(v_users) AS before WHERE before = named)
        UNION ALL
        SELECT NULL, NEW.team_id WHERE NEW.team_id IS NOT NULL AND NEW.team_id IS DISTINCT FROM v_team
      ) AS target
     WHERE NEW.is_shared
    ON CONFLICT (user_agent_id, shared_with_user, shared_with_team)
        DO UPDATE SET permission = 'view', expires_at = NULL, created_at = now(), created_by = auth.uid(),
            accepted_by = '{}', declined_by = '{}'
        WHERE s.expires_at <= now() OR s.shared_with_user = ANY (s.declined_by);
    RETURN NULL;
END $$;

-- Records the changed shares of a statement in the audit trail and copies them to the columns.
-- Once per statement: once per row, 2,000 shares of one row took 24.5 s.
CREATE OR REPLACE FUNCTION public.user_agent_shares_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    v_changed pg_catalog.jsonb[];
    v_ids pg_catalog.uuid[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        v_changed := ARRAY(SELECT jsonb_build_object('new', to_jsonb(n)) FROM added AS n);
    ELSIF TG_OP = 'DELETE' THEN
        v_changed := ARRAY(SELECT jsonb_build_object('old', to_jsonb(o)) FROM removed AS o);
    ELSE
        v_changed := ARRAY(SELECT jsonb_build_object('old', to_jsonb(o), 'new', to_jsonb(n))
                             FROM removed AS o JOIN added AS n USING (id) WHERE to_jsonb(o) <> to_jsonb(n));
    END IF;
    IF cardinality(v_changed) = 0 THEN
        RETURN NULL;
    END IF;
    v_ids := ARRAY(SELECT DISTINCT (coalesce(c -> 'new', c -> 'old') ->> 'user_agent_id')::uuid
                     FROM unnest(v_changed) AS c);
    PERFORM public.user_agents_reflect_shares(v_ids, false);
    IF TG_OP = 'INSERT' AND (SELECT count(*) FROM public.user_agents WHERE id = ANY (v_ids)) < cardinality(v_ids) THEN
        -- Deleted before it could be locked: the answer is that of the policy.
        RAISE insufficient_privilege
            USING MESSAGE = 'new row violates row-level security policy for table "user_agent_shares"';
    END IF;
    PERFORM public.user_agent_history_ensure_month(now()::date);
    -- Without a row, that is while it is being deleted, nothing is recorded: its end is recorded already.
    INSERT INTO public.user_agent_history (user_agent_id, user_id, agent_id, action, changes)
    SELECT ua.id, ua.user_id, ua.agent_id,
           CASE WHEN v_new IS NULL THEN 'unshare'
                WHEN jsonb_array_length(v_new -> 'declined_by') > jsonb_array_length(v_old -> 'declined_by') THEN 'decline'
                WHEN jsonb_array_length(v_new -> 'accepted_by') > jsonb_array_length(v_old -> 'accepted_by') THEN 'accept'
                ELSE 'share' END,
           (
               SELECT jsonb_object_agg(part, jsonb_build_object('old', v_old -> part, 'new', v_new -> part))
                 FROM unnest(ARRAY['shared_with_user', 'shared_with_team', 'permission', 'expires_at']) AS part
                WHERE coalesce(v_old ->> part, v_new ->> part) IS NOT NULL
           )
      FROM unnest(v_changed) WITH ORDINALITY AS c (change, place)
     CROSS JOIN LATERAL (SELECT change -> 'old' AS v_old, change -> 'new' AS v_new) AS version
      JOIN public.user_agents AS ua ON ua.id = (coalesce(v_new, v_old) ->> 'user_agent_id')::uuid
     ORDER BY place;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION public.user_agents_delete_shares() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM public.user_agent_shares AS s USING gone WHERE s.user_agent_id = gone.id;
    RETURN NULL;
END $$;

REVOKE ALL ON FUNCTION public.user_agents_show_shares(uuid, boolean, uuid[], uuid),
    public.user_agents_reflect_shares(uuid[], boolean),
    public.user_agents_take_shares(), public.user_agent_shares_changed(), public.user_agents_delete_shares()
    FROM PUBLIC, anon, authenticated, service_role;

-- From here on changes of the columns are copied; ingest names none of them.
CREATE OR REPLACE TRIGGER user_agents_delete_shares AFTER DELETE ON public.user_agents
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION public.user_agents_delete_shares();
CREATE OR REPLACE TRIGGER user_agents_take_new_shares AFTER INSERT ON public.user_agents
    FOR EACH ROW WHEN (NEW.is_shared) EXECUTE FUNCTION public.user_agents_take_shares();
CREATE OR REPLACE TRIGGER user_agents_take_shares
    AFTER UPDATE OF is_shared, shared_with, team_id ON public.user_agents FOR EACH ROW
    WHEN (OLD.is_shared IS DISTINCT FROM NEW.is_shared OR OLD.shared_with IS DISTINCT FROM NEW.shared_with
          OR OLD.team_id IS DISTINCT FROM NEW.team_id)
    EXECUTE FUNCTION public.user_agents_take_shares();

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

-- One statement, so that no row is hidden between two policies. Row-level security cannot hide a column, and the owner's
-- notes are private: receivers read a row that has any through user_agents_shared_with_me. PostgreSQL evaluates policies
-- in reverse order of their names, so that reading one's own rows does not evaluate this one.
DO $swap$
BEGIN
    DROP POLICY IF EXISTS "Team members can view shared agents" ON public.user_agents;
    CREATE POLICY "Team members can view shared agents" ON public.user_agents FOR SELECT TO authenticated
        USING (
            deleted_at IS NULL
            AND id = ANY ((SELECT public.user_agent_ids_shared_with_me(ARRAY['view', 'use', 'edit']))::uuid[])
            AND coalesce(notes, '') = '' AND coalesce(quick_notes, '') = ''
        );
END
$swap$;

CREATE OR REPLACE TRIGGER user_agent_shares_inserted AFTER INSERT ON public.user_agent_shares
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION public.user_agent_shares_changed();
CREATE OR REPLACE TRIGGER user_agent_shares_updated AFTER UPDATE ON public.user_agent_shares
    REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION public.user_agent_shares_changed();
CREATE OR REPLACE TRIGGER user_agent_shares_deleted AFTER DELETE ON public.user_agent_shares
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION public.user_agent_shares_changed();
-- Row and recipient of a share never change: delete it and insert another.
GRANT INSERT (user_agent_id, shared_with_user, shared_with_team, permission, expires_at), DELETE,
    UPDATE (permission, expires_at) ON public.user_agent_shares TO authenticated;
GRANT INSERT, DELETE, UPDATE (permission, expires_at) ON public.user_agent_shares TO service_role;

DO $comments$
BEGIN
    COMMENT ON POLICY "Team members can view shared agents" ON public.user_agents IS 'Users see live rows that are shared with them or a team of theirs and have no notes.';
    COMMENT ON FUNCTION public.user_agents_show_shares IS 'Returns true if is_shared, shared_with and team_id with these values say what the shares of the row say.';
    COMMENT ON FUNCTION public.user_agents_reflect_shares IS 'Copies the shares of these rows to is_shared, shared_with and team_id; p_lasting leaves out shares that expire.';
    COMMENT ON FUNCTION public.user_agents_take_shares IS 'Trigger function: copies changed is_shared, shared_with and team_id to shares.';
    COMMENT ON FUNCTION public.user_agent_shares_changed IS 'Trigger function: records changed shares in the audit trail and copies them to user_agents.';
    COMMENT ON FUNCTION public.user_agents_delete_shares IS 'Trigger function: deletes the shares of deleted rows.';
END
$comments$;

ANALYZE public.user_agent_shares;
