-- version: 4.0.0
-- lock_timeout: 100ms
--
-- What the receiver of a share may do: read the row without the owner's notes, change the columns of a list with the
-- permission to edit, accept the share or decline it. Statements that lock user_agents come last.

-- The only list of what an editor may change: customization and organization. A new column is not in it.
CREATE FUNCTION public.user_agents_editable_columns() RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY[
    'custom_name', 'custom_description', 'custom_avatar', 'custom_color', 'custom_system_prompt', 'custom_temperature',
    'custom_max_tokens', 'is_favorite', 'is_pinned', 'folder', 'tags', 'sort_order', 'display_position'
];

-- Returns true if the new version of another user's row differs from the old one in no other columns. The policy of
-- editors calls it for the rows of their updates; a trigger would run for each row that ingest counts, too. Volatile, to
-- see the version that the update has just locked instead of that of the statement's snapshot. Runs with the caller's
-- rights, so that it compares nothing that the caller may not read. As JSON: DROP TABLE … CASCADE would drop a function of
-- the row type, and a dump of the table has the policy but no function.
CREATE FUNCTION public.user_agents_edit_allowed(p_new jsonb) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_old pg_catalog.jsonb := (
        SELECT to_jsonb(ua) FROM public.user_agents AS ua WHERE ua.id = (p_new ->> 'id')::uuid AND ua.user_id <> auth.uid()
    );
    v_others pg_catalog.text;
BEGIN
    SELECT string_agg(key, ', ' ORDER BY key) INTO v_others
      FROM jsonb_each(p_new - public.user_agents_editable_columns() - 'updated_at'::text)
     WHERE v_old -> key IS DISTINCT FROM value;
    IF v_old IS NOT NULL AND v_others IS NOT NULL THEN
        RAISE insufficient_privilege USING MESSAGE = format('only the owner of this row may change %s', v_others);
    END IF;
    RETURN v_old IS NOT NULL;
END $$;

-- Changes a shared row that its editor cannot update, because the owner's notes hide it. Returns whether the
-- caller may edit the row. Keys of p_changes are names of columns.
CREATE FUNCTION public.edit_shared_agent(p_user_agent_id uuid, p_changes jsonb) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_keys pg_catalog.text[] := ARRAY(SELECT jsonb_object_keys(p_changes));
    v_rows pg_catalog.int8;
    v_state pg_catalog.text;
    v_refusal pg_catalog.text;
BEGIN
    IF NOT v_keys <@ public.user_agents_editable_columns() THEN
        RAISE insufficient_privilege USING MESSAGE = format(
            'only the owner of this row may change %s',
            (SELECT string_agg(key, ', ' ORDER BY key) FROM unnest(v_keys) AS key
              WHERE key <> ALL (public.user_agents_editable_columns())));
    END IF;
    IF cardinality(v_keys) = 0
       OR p_user_agent_id = ANY (public.user_agent_ids_shared_with_me(ARRAY['edit'])) IS NOT TRUE THEN
        RETURN false;
    END IF;
    -- The share may end while this waits for the row, so it is looked up again.
    PERFORM FROM public.user_agents WHERE id = p_user_agent_id FOR NO KEY UPDATE;
    IF p_user_agent_id = ANY (public.user_agent_ids_shared_with_me(ARRAY['edit'])) IS NOT TRUE THEN
        RETURN false;
    END IF;
    BEGIN
        EXECUTE format(
            'UPDATE public.user_agents AS ua SET (%1$s) = (SELECT %1$s FROM jsonb_populate_record(ua, $2))'
            ' WHERE ua.id = $1 AND ua.deleted_at IS NULL',
            (SELECT string_agg(format('%I', key), ', ') FROM unnest(v_keys) AS key)
        ) USING p_user_agent_id, p_changes;
        GET DIAGNOSTICS v_rows = ROW_COUNT;
    EXCEPTION WHEN integrity_constraint_violation THEN
        -- Again without the detail, which quotes the row with its notes.
        GET STACKED DIAGNOSTICS v_state = RETURNED_SQLSTATE, v_refusal = MESSAGE_TEXT;
        RAISE EXCEPTION USING ERRCODE = v_state, MESSAGE = v_refusal;
    END;
    RETURN v_rows > 0;
END $$;

-- The rows that others share with the caller, without what is private to their owners. Row-level security cannot hide a
-- column of a row, so this reads with the rights of the tables' owner.
CREATE FUNCTION public.user_agents_received() RETURNS SETOF public.user_agents
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_row public.user_agents;
BEGIN
    FOR v_row IN
        SELECT ua.*
          FROM public.user_agents AS ua
         -- As a sub-select: PostgreSQL would call it for each row that it reads, 1.1 s for 2,000 shares instead of 40 ms.
         WHERE ua.id = ANY ((SELECT public.user_agent_ids_shared_with_me(ARRAY['view', 'use', 'edit']))::uuid[])
           AND ua.deleted_at IS NULL AND ua.user_id <> auth.uid()
    LOOP
        v_row.notes := NULL;
        v_row.quick_notes := NULL;
        RETURN NEXT v_row;
    END LOOP;
END $$;

-- Marks a share as accepted or declined by the caller; true if the caller is its receiver, in person or as a member of
-- the team. The row is locked before its share, as a write to the columns of 3.0.0 does.
CREATE FUNCTION public.user_agent_shares_answer(p_share_id uuid, p_accepts boolean) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_caller pg_catalog.uuid := auth.uid();
    v_row pg_catalog.uuid := (
        SELECT s.user_agent_id FROM public.user_agent_shares AS s
         WHERE s.id = p_share_id AND (s.shared_with_user = v_caller OR s.shared_with_team IN (
                   SELECT membership.team_id FROM public.user_role_assignments AS membership
                    WHERE membership.user_id = v_caller)));
BEGIN
    IF v_row IS NULL THEN
        RETURN false;
    END IF;
    PERFORM FROM public.user_agents WHERE id = v_row FOR NO KEY UPDATE;
    UPDATE public.user_agent_shares
       SET accepted_by = array_remove(accepted_by, v_caller) || CASE WHEN p_accepts THEN ARRAY[v_caller] ELSE '{}' END,
           declined_by = array_remove(declined_by, v_caller) || CASE WHEN p_accepts THEN '{}' ELSE ARRAY[v_caller] END
     WHERE id = p_share_id
       AND v_caller <> ALL (CASE WHEN p_accepts THEN accepted_by ELSE declined_by END);
    RETURN true;
END $$;

-- The receiver may change the answer until the owner deletes the share.
CREATE FUNCTION public.accept_share(p_share_id uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN public.user_agent_shares_answer(p_share_id, true);
END $$;

CREATE FUNCTION public.decline_share(p_share_id uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN public.user_agent_shares_answer(p_share_id, false);
END $$;

REVOKE ALL ON FUNCTION public.user_agents_editable_columns(), public.user_agents_edit_allowed(jsonb),
    public.edit_shared_agent(uuid, jsonb), public.user_agents_received(), public.accept_share(uuid),
    public.decline_share(uuid), public.user_agent_shares_answer(uuid, boolean)
    FROM PUBLIC, anon, authenticated, service_role;
GRANT EXECUTE ON FUNCTION public.user_agents_editable_columns(), public.user_agents_edit_allowed(jsonb),
    public.edit_shared_agent(uuid, jsonb), public.user_agents_received(), public.accept_share(uuid),
    public.decline_share(uuid) TO authenticated;

-- One line for each share that the caller receives: who shares what since when, and whether the caller accepted it. A
-- declined share shows nothing of the row.
CREATE VIEW public.user_agents_shared_with_me WITH (security_invoker = true) AS
SELECT s.id AS share_id, s.user_agent_id, s.owner_id AS shared_by, s.shared_with_team, s.permission,
       s.created_at AS shared_since, s.expires_at AS shared_until,
       CASE
           WHEN (SELECT auth.uid()) = ANY (s.declined_by) THEN 'declined'
           WHEN (SELECT auth.uid()) = ANY (s.accepted_by) THEN 'accepted'
           ELSE 'pending'
       END AS state,
       (r.seen).agent_id, (r.seen).custom_name, (r.seen).custom_description, (r.seen).custom_avatar,
       (r.seen).custom_color, (r.seen).custom_system_prompt, (r.seen).custom_temperature,
       (r.seen).custom_max_tokens, (r.seen).is_favorite, (r.seen).is_pinned, (r.seen).folder, (r.seen).tags,
       (r.seen).sort_order, (r.seen).display_position, (r.seen).is_active, (r.seen).is_enabled,
       (r.seen).is_visible, (r.seen).status, (r.seen).settings, (r.seen).preferences, (r.seen).ui_config,
       (r.seen).source, (r.seen).user_rating, (r.seen).quality_score, (r.seen).usage_count,
       (r.seen).last_used_at, (r.seen).updated_at
  FROM public.user_agent_shares AS s
  -- As one value: PostgreSQL would store the order of all columns of user_agents, which may be another one elsewhere.
  LEFT JOIN (SELECT public.user_agents_received() AS seen) AS r ON (r.seen).id = s.user_agent_id
 WHERE s.owner_id <> (SELECT auth.uid()) AND (s.expires_at IS NULL OR s.expires_at > now())
   AND ((r.seen).id IS NOT NULL OR (SELECT auth.uid()) = ANY (s.declined_by));
REVOKE ALL ON public.user_agents_shared_with_me FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.user_agents_shared_with_me TO authenticated;

-- Before the statement that locks user_agents.
DO $comments$
DECLARE
    v_column text;
    v_meaning text;
BEGIN
    COMMENT ON FUNCTION public.user_agents_editable_columns IS 'Returns the columns of another user''s row that an editor may change.';
    COMMENT ON FUNCTION public.user_agents_edit_allowed IS 'Returns true if an update of another user''s row changes editable columns only; called by a policy.';
    COMMENT ON FUNCTION public.edit_shared_agent IS 'Changes editable columns of a row that is shared with the caller with the permission edit, also where it has notes; returns whether it did.';
    COMMENT ON FUNCTION public.user_agents_received IS 'Returns the live rows that others share with the caller, without the notes of their owners.';
    COMMENT ON FUNCTION public.user_agent_shares_answer IS 'Marks a share as accepted or declined by the caller; returns whether the caller is its receiver.';
    COMMENT ON FUNCTION public.accept_share IS 'Accepts a share; returns whether the caller is its receiver.';
    COMMENT ON FUNCTION public.decline_share IS 'Declines a share, which then gives the caller no access; returns whether the caller is its receiver.';
    COMMENT ON VIEW public.user_agents_shared_with_me IS 'The shares that the caller receives, with what the caller may see of the row; reads with the caller''s rights.';
    -- Other columns mean what they mean in user_agents.
    FOR v_column, v_meaning IN
        SELECT a.attname, col_description(b.attrelid, b.attnum)
          FROM pg_catalog.pg_attribute AS a
          JOIN pg_catalog.pg_attribute AS b ON b.attrelid = 'public.user_agents'::regclass AND b.attname = a.attname
         WHERE a.attrelid = 'public.user_agents_shared_with_me'::regclass AND a.attnum > 0
    LOOP
        EXECUTE format('COMMENT ON COLUMN public.user_agents_shared_with_me.%I IS %L', v_column, v_meaning);
    END LOOP;
    COMMENT ON COLUMN public.user_agents_shared_with_me.share_id IS 'Id of the share, for accept_share and decline_share.';
    COMMENT ON COLUMN public.user_agents_shared_with_me.user_agent_id IS 'Id of the shared row.';
    COMMENT ON COLUMN public.user_agents_shared_with_me.shared_by IS 'The user who shares the row.';
    COMMENT ON COLUMN public.user_agents_shared_with_me.shared_with_team IS 'The team that receives the share; NULL: the caller does.';
    COMMENT ON COLUMN public.user_agents_shared_with_me.permission IS 'view, use or edit.';
    COMMENT ON COLUMN public.user_agents_shared_with_me.shared_since IS 'When the share was made.';
    COMMENT ON COLUMN public.user_agents_shared_with_me.shared_until IS 'When the share ends; NULL: never by itself.';
    COMMENT ON COLUMN public.user_agents_shared_with_me.state IS 'pending, accepted or declined; a declined share shows nothing of the row.';
END
$comments$;

-- user_agents_forbid_pair_change prevents an editor from taking over a row, which the own-row policy would allow. As for
-- reading, a row with notes is out of reach: an update would tell whether a guess equals them.
CREATE POLICY "Editors can update shared agents" ON public.user_agents FOR UPDATE TO authenticated
    USING (
        deleted_at IS NULL
        AND id = ANY ((SELECT public.user_agent_ids_shared_with_me(ARRAY['edit']))::uuid[])
        AND coalesce(notes, '') = '' AND coalesce(quick_notes, '') = ''
    )
    WITH CHECK (public.user_agents_edit_allowed(to_jsonb(user_agents)));
COMMENT ON POLICY "Editors can update shared agents" ON public.user_agents IS 'Users change live rows that are shared with them with the permission edit.';
