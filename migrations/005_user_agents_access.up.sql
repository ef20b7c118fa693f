-- version: 3.0.0
-- lock_timeout: 100ms
-- squawk-ignore-file renaming-object -- only policies are renamed, and no client names one
--
-- Access: policies, grants, functions, views and triggers. Statements that lock user_agents come last, so that it is
-- locked for milliseconds.

-- Membership in teams: the table of the platform if it has one, which is never altered.
DO $assignments$
BEGIN
    IF to_regclass('public.user_role_assignments_kept_3_0_0') IS NOT NULL
        AND to_regclass('public.user_role_assignments') IS NULL
    THEN
        ALTER TABLE public.user_role_assignments_kept_3_0_0 RENAME TO user_role_assignments;
        GRANT SELECT ON public.user_role_assignments TO authenticated;
        GRANT SELECT, INSERT, UPDATE, DELETE ON public.user_role_assignments TO service_role;
    ELSIF to_regclass('public.user_role_assignments') IS NULL THEN
        CREATE TABLE public.user_role_assignments (
            user_id uuid NOT NULL REFERENCES auth.users (id) ON DELETE CASCADE,
            team_id uuid NOT NULL,
            role text NOT NULL DEFAULT 'member',
            PRIMARY KEY (user_id, team_id)
        );
        ALTER TABLE public.user_role_assignments ENABLE ROW LEVEL SECURITY;
        REVOKE ALL ON public.user_role_assignments FROM PUBLIC, anon, authenticated, service_role;
        GRANT SELECT ON public.user_role_assignments TO authenticated;
        GRANT SELECT, INSERT, UPDATE, DELETE ON public.user_role_assignments TO service_role;
        CREATE POLICY user_role_assignments_select_own ON public.user_role_assignments FOR SELECT TO authenticated
            USING (user_id = (SELECT auth.uid()));
        CREATE POLICY user_role_assignments_service_role ON public.user_role_assignments FOR ALL TO service_role
            USING (true) WITH CHECK (true);

        COMMENT ON TABLE public.user_role_assignments IS 'Which user belongs to which team; written by the application.';
        COMMENT ON COLUMN public.user_role_assignments.user_id IS 'The user.';
        COMMENT ON COLUMN public.user_role_assignments.team_id IS 'The team.';
        COMMENT ON COLUMN public.user_role_assignments.role IS 'What the user is in the team; never read here.';
        COMMENT ON INDEX public.user_role_assignments_pkey IS 'Finds the teams of a user.';
        COMMENT ON POLICY user_role_assignments_select_own ON public.user_role_assignments
            IS 'Users see their own memberships.';
        COMMENT ON POLICY user_role_assignments_service_role ON public.user_role_assignments
            IS 'A service_role without BYPASSRLS sees and changes every membership.';
    END IF;
END
$assignments$;

-- The four functions below run with the rights of the caller: row-level security limits `authenticated` to its own rows
-- and lets service_role and the owner act for everybody.

-- A soft-deleted row is restored with what it holds. Returns the row. PL/pgSQL, because an SQL function that returns a row
-- fails in sessions that call it while a column is added to the table.
CREATE FUNCTION public.add_user_agent(
    p_user_id uuid, p_agent_id uuid, p_source text DEFAULT 'store', p_folder text DEFAULT NULL
) RETURNS public.user_agents LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    v_row public.user_agents;
BEGIN
    INSERT INTO public.user_agents AS ua (user_id, agent_id, source, folder)
    VALUES (p_user_id, p_agent_id, p_source, p_folder)
    ON CONFLICT (user_id, agent_id) DO UPDATE SET
        deleted_at = NULL,
        is_active = CASE WHEN ua.deleted_at IS NULL THEN ua.is_active ELSE true END,
        is_visible = CASE WHEN ua.deleted_at IS NULL THEN ua.is_visible ELSE true END,
        source = coalesce(ua.source, excluded.source),
        folder = coalesce(excluded.folder, ua.folder)
    RETURNING ua.* INTO v_row;
    RETURN v_row;
END
$body$;

CREATE FUNCTION public.track_agent_usage(
    p_user_id uuid,
    p_agent_id uuid,
    p_success boolean DEFAULT true,
    p_tokens_used bigint DEFAULT 0,
    p_cost_usd numeric DEFAULT 0,
    p_response_time_ms integer DEFAULT NULL
) RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $body$
    INSERT INTO public.user_agents AS ua (
        user_id, agent_id, usage_count, message_count, success_count, error_count, total_tokens_used, total_cost_usd,
        avg_response_time_ms, first_used_at, last_used_at
    )
    VALUES (
        p_user_id, p_agent_id, 1, 1,
        CASE WHEN coalesce(p_success, true) THEN 1 ELSE 0 END, CASE WHEN coalesce(p_success, true) THEN 0 ELSE 1 END,
        coalesce(p_tokens_used, 0), coalesce(p_cost_usd, 0), p_response_time_ms, now(), now()
    )
    ON CONFLICT (user_id, agent_id) DO UPDATE SET
        usage_count = coalesce(ua.usage_count, 0) + 1,
        message_count = coalesce(ua.message_count, 0) + 1,
        success_count = coalesce(ua.success_count, 0) + excluded.success_count,
        error_count = coalesce(ua.error_count, 0) + excluded.error_count,
        total_tokens_used = coalesce(ua.total_tokens_used, 0) + excluded.total_tokens_used,
        total_cost_usd = coalesce(ua.total_cost_usd, 0) + excluded.total_cost_usd,
        avg_response_time_ms = CASE
            WHEN excluded.avg_response_time_ms IS NULL THEN ua.avg_response_time_ms
            WHEN ua.avg_response_time_ms IS NULL THEN excluded.avg_response_time_ms
            ELSE round(
                (ua.avg_response_time_ms::numeric * coalesce(ua.usage_count, 0) + excluded.avg_response_time_ms)
                / (coalesce(ua.usage_count, 0) + 1)
            )
        END,
        first_used_at = coalesce(ua.first_used_at, excluded.first_used_at),
        last_used_at = greatest(ua.last_used_at, excluded.last_used_at)
$body$;

-- Under row-level security a foreign row would only seem to be missing; the two functions below raise an error instead.

-- Returns true if the row existed and was not deleted.
CREATE FUNCTION public.soft_delete_user_agent(p_user_id uuid, p_agent_id uuid)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF p_user_id IS DISTINCT FROM auth.uid() AND row_security_active('public.user_agents')
        AND NOT pg_has_role(current_user, 'service_role', 'MEMBER')
    THEN
        RAISE insufficient_privilege USING MESSAGE = 'soft_delete_user_agent: this is not your user';
    END IF;
    UPDATE public.user_agents SET deleted_at = now(), is_active = false, is_visible = false
    WHERE user_id = p_user_id AND agent_id = p_agent_id AND deleted_at IS NULL;
    RETURN FOUND;
END
$body$;

-- Returns true if the row existed and was deleted.
CREATE FUNCTION public.restore_user_agent(p_user_id uuid, p_agent_id uuid)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF p_user_id IS DISTINCT FROM auth.uid() AND row_security_active('public.user_agents')
        AND NOT pg_has_role(current_user, 'service_role', 'MEMBER')
    THEN
        RAISE insufficient_privilege USING MESSAGE = 'restore_user_agent: this is not your user';
    END IF;
    UPDATE public.user_agents SET deleted_at = NULL, is_active = true, is_visible = true
    WHERE user_id = p_user_id AND agent_id = p_agent_id AND deleted_at IS NOT NULL;
    RETURN FOUND;
END
$body$;

-- This trigger and the one of the quality may run for every counted row: one assignment each, no query.
CREATE FUNCTION public.user_agents_set_updated_at() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$body$;

-- The rollback text of the history drops user_agents_with_details first, so no view reads another one. A platform's
-- `agents` may lack columns: they are NULL. LEFT JOIN: row-level security may hide an inactive agent from a user who
-- still has it. Each column by its name: a later migration adds columns, and migrate repair may create the views again
-- after that.
DO $views$
DECLARE
    details text := $details$
        SELECT
            ua.id, ua.user_id, ua.agent_id, ua.original_agent_id, ua.is_user_copy, ua.added_at, ua.last_used_at,
            ua.usage_count, ua.is_active, ua.metadata, ua.created_at, ua.updated_at, ua.custom_name, ua.custom_description,
            ua.custom_avatar, ua.custom_color, ua.custom_system_prompt, ua.custom_temperature, ua.custom_max_tokens,
            ua.is_favorite, ua.is_pinned, ua.folder, ua.tags, ua.sort_order, ua.display_position, ua.message_count,
            ua.conversation_count, ua.success_count, ua.error_count, ua.user_rating, ua.quality_score, ua.last_rating_at,
            ua.avg_response_time_ms, ua.total_tokens_used, ua.total_cost_usd, ua.first_used_at, ua.archived_at, ua.deleted_at,
            ua.is_enabled, ua.is_visible, ua.status, ua.settings, ua.preferences, ua.ui_config, ua.source_details,
            ua.share_settings, ua.notification_settings, ua.notifications_enabled, ua.last_conversation_id, ua.notes,
            ua.quick_notes, ua.source, ua.is_shared, ua.shared_with, ua.team_id,
            {agent},
            CASE
                WHEN ua.last_used_at IS NULL THEN 'never_used'
                WHEN ua.last_used_at >= now() - interval '24 hours' THEN 'active'
                WHEN ua.last_used_at >= now() - interval '7 days' THEN 'recent'
                WHEN ua.last_used_at >= now() - interval '30 days' THEN 'occasional'
                ELSE 'inactive'
            END AS usage_status,
            round(
                100.0 * coalesce(ua.success_count, 0)
                / nullif(coalesce(ua.success_count, 0) + coalesce(ua.error_count, 0), 0),
                2
            ) AS success_rate_percent
        FROM public.user_agents AS ua
        LEFT JOIN public.agents AS a ON a.id = ua.agent_id
        WHERE ua.deleted_at IS NULL
    $details$;
BEGIN
    details := replace(details, '{agent}', (
        SELECT string_agg(
            CASE WHEN a.attname IS NULL THEN 'NULL::text' ELSE 'a.' || a.attname END || ' AS ' || wanted.alias,
            ', ' ORDER BY wanted.place
        )
        FROM (
            VALUES
            (1, 'name', 'agent_name'),
            (2, 'description', 'agent_description'),
            (3, 'title', 'agent_display_name'),
            (4, 'tagline', 'agent_tagline'),
            (5, 'avatar_url', 'agent_avatar'),
            (6, 'status', 'agent_status')
        ) AS wanted (place, name, alias)
        LEFT JOIN pg_catalog.pg_attribute AS a
            ON a.attrelid = 'public.agents'::regclass AND a.attname = wanted.name AND NOT a.attisdropped
    ));
    EXECUTE 'CREATE VIEW public.user_agents_with_details WITH (security_invoker = true) AS ' || details;
    EXECUTE 'CREATE VIEW public.user_favorite_agents WITH (security_invoker = true) AS ' || details
        || 'AND ua.is_favorite ORDER BY coalesce(ua.sort_order, 0), ua.added_at DESC';
    EXECUTE 'CREATE VIEW public.user_popular_agents WITH (security_invoker = true) AS ' || details
        || 'AND ua.usage_count > 0 ORDER BY ua.usage_count DESC, ua.last_used_at DESC';
    EXECUTE 'CREATE VIEW public.user_recent_agents WITH (security_invoker = true) AS ' || details
        || 'AND ua.last_used_at IS NOT NULL ORDER BY ua.last_used_at DESC';
END
$views$;

REVOKE ALL ON public.user_agents_with_details, public.user_favorite_agents, public.user_popular_agents,
    public.user_recent_agents FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.user_agents_with_details, public.user_favorite_agents, public.user_popular_agents,
    public.user_recent_agents TO authenticated, service_role;

-- Before the statements that lock user_agents.
DO $comments$
DECLARE
    v_view text;
    v_column text;
    v_meaning text;
BEGIN
    COMMENT ON FUNCTION public.add_user_agent IS 'Adds an agent to a user, or restores the soft-deleted row; runs with the caller''s rights.';
    COMMENT ON FUNCTION public.track_agent_usage IS 'Counts one use now: tokens, cost in US dollars, response time in milliseconds; from 4.0.0 on also in the ledger and the roll-up.';
    COMMENT ON FUNCTION public.soft_delete_user_agent IS 'Soft-deletes the row of a pair; returns true if it was live; runs with the caller''s rights.';
    COMMENT ON FUNCTION public.restore_user_agent IS 'Undoes a soft delete; returns true if the row was deleted; runs with the caller''s rights.';
    COMMENT ON FUNCTION public.user_agents_set_updated_at IS 'Trigger function: sets updated_at to the time of the transaction.';
    COMMENT ON VIEW public.user_agents_with_details IS 'The rows that are not soft-deleted, with details of their agent; reads with the caller''s rights.';
    COMMENT ON COLUMN public.user_agents_with_details.agent_name IS 'Name of the agent; NULL if row-level security hides the agent.';
    COMMENT ON COLUMN public.user_agents_with_details.agent_description IS 'Description of the agent; NULL if row-level security hides the agent.';
    COMMENT ON COLUMN public.user_agents_with_details.agent_display_name IS 'Title of the agent; NULL where agents has no such column.';
    COMMENT ON COLUMN public.user_agents_with_details.agent_tagline IS 'Tagline of the agent; NULL where agents has no such column.';
    COMMENT ON COLUMN public.user_agents_with_details.agent_avatar IS 'Address of the agent''s picture; NULL where agents has no such column.';
    COMMENT ON COLUMN public.user_agents_with_details.agent_status IS 'Status of the agent; NULL where agents has no such column.';
    COMMENT ON COLUMN public.user_agents_with_details.usage_status IS 'active, recent or occasional: used within 24 hours, 7 days or 30 days; otherwise inactive or never_used.';
    COMMENT ON COLUMN public.user_agents_with_details.success_rate_percent IS 'Share of uses that succeeded, in percent; NULL before the first use.';
    -- Other columns mean what they mean in the relation that the view reads.
    FOREACH v_view IN ARRAY ARRAY[
        'user_agents_with_details', 'user_favorite_agents', 'user_popular_agents', 'user_recent_agents'
    ] LOOP
        FOR v_column, v_meaning IN
            SELECT a.attname, coalesce(col_description(b.attrelid, b.attnum), col_description(d.attrelid, d.attnum))
              FROM pg_catalog.pg_attribute AS a
              LEFT JOIN pg_catalog.pg_attribute AS b
                ON b.attrelid = 'public.user_agents'::regclass AND b.attname = a.attname
              LEFT JOIN pg_catalog.pg_attribute AS d
                ON d.attrelid = 'public.user_agents_with_details'::regclass AND d.attname = a.attname
             WHERE a.attrelid = format('public.%I', v_view)::regclass AND a.attnum > 0 AND NOT a.attisdropped
        LOOP
            EXECUTE format('COMMENT ON COLUMN public.%I.%I IS %L', v_view, v_column, v_meaning);
        END LOOP;
    END LOOP;
    COMMENT ON VIEW public.user_favorite_agents IS 'The favorites of user_agents_with_details, in the order of the list.';
    COMMENT ON VIEW public.user_popular_agents IS 'The used rows of user_agents_with_details, the most used first.';
    COMMENT ON VIEW public.user_recent_agents IS 'The used rows of user_agents_with_details, the last used first.';
END
$comments$;

-- (SELECT auth.uid()) is evaluated once per query, auth.uid() once per row.
ALTER POLICY "Users can view their own" ON public.user_agents USING (user_id = (SELECT auth.uid()));
ALTER POLICY "Users can insert their own" ON public.user_agents WITH CHECK (user_id = (SELECT auth.uid()));
ALTER POLICY "Users can update their own" ON public.user_agents
    USING (user_id = (SELECT auth.uid())) WITH CHECK (user_id = (SELECT auth.uid()));
ALTER POLICY "Users can view their own" ON public.user_agents RENAME TO "Users can view their own agent relationships";
ALTER POLICY "Users can insert their own" ON public.user_agents
    RENAME TO "Users can insert their own agent relationships";
ALTER POLICY "Users can update their own" ON public.user_agents
    RENAME TO "Users can update their own agent relationships";
ALTER POLICY "Service role full access" ON public.user_agents RENAME TO "Service role has full access";
CREATE POLICY "Users can delete their own agent relationships" ON public.user_agents FOR DELETE TO authenticated
    USING (user_id = (SELECT auth.uid()));
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
GRANT DELETE ON public.user_agents TO authenticated;

-- WHEN skips calls that would change nothing: ingest sets the time itself.
CREATE TRIGGER user_agents_updated_at BEFORE UPDATE ON public.user_agents
    FOR EACH ROW WHEN (NEW.updated_at IS DISTINCT FROM now()) EXECUTE FUNCTION public.user_agents_set_updated_at();

-- 0.5 rating + 0.3 success rate + 0.2 usage tier, each on the scale of 0 to 5. An unrated agent counts as 3.0.
--
-- The rollback text of the history drops calculate_agent_quality_score, so the trigger and its function contain the
-- formula instead of calling it. RETURN binds names at creation, independently of the caller's search_path.
DO $quality$
DECLARE
    formula text := $formula$round(
        0.5 * coalesce(row.user_rating, 3.0)
        + CASE
            WHEN coalesce(row.success_count, 0) + coalesce(row.error_count, 0) > 0
                THEN 1.5 * coalesce(row.success_count, 0)
                     / (coalesce(row.success_count, 0) + coalesce(row.error_count, 0))
            ELSE 0
        END
        + CASE
            WHEN row.usage_count > 100 THEN 1.0
            WHEN row.usage_count > 50 THEN 0.9
            WHEN row.usage_count > 20 THEN 0.8
            WHEN row.usage_count > 10 THEN 0.7
            WHEN row.usage_count > 5 THEN 0.6
            WHEN row.usage_count > 0 THEN 0.5
            ELSE 0
        END,
        2
    )$formula$;
BEGIN
    EXECUTE format($create$
        CREATE FUNCTION public.calculate_agent_quality_score(
            p_user_rating numeric, p_usage_count bigint, p_success_count bigint, p_error_count bigint
        ) RETURNS numeric(3, 2) LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN %s
    $create$, replace(formula, 'row.', 'p_'));
    EXECUTE format($create$
        CREATE FUNCTION public.user_agents_set_quality() RETURNS trigger
        LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
        BEGIN
            NEW.quality_score := %s;
            RETURN NEW;
        END
        $body$
    $create$, replace(formula, 'row.', 'NEW.'));
    -- WHEN skips calls that would change nothing: most uses leave the score unchanged.
    EXECUTE format($create$
        CREATE TRIGGER user_agents_auto_quality
            BEFORE INSERT OR UPDATE OF user_rating, usage_count, success_count, error_count ON public.user_agents
            FOR EACH ROW WHEN (NEW.quality_score IS DISTINCT FROM %s)
            EXECUTE FUNCTION public.user_agents_set_quality()
    $create$, replace(formula, 'row.', 'NEW.'));
END
$quality$;

DO $execute$
DECLARE
    callable text;
BEGIN
    REVOKE ALL ON FUNCTION public.user_agents_set_updated_at(), public.user_agents_set_quality()
        FROM PUBLIC, anon, authenticated, service_role;
    FOREACH callable IN ARRAY ARRAY[
        'public.calculate_agent_quality_score(numeric, bigint, bigint, bigint)',
        'public.add_user_agent(uuid, uuid, text, text)',
        'public.track_agent_usage(uuid, uuid, boolean, bigint, numeric, integer)',
        'public.soft_delete_user_agent(uuid, uuid)',
        'public.restore_user_agent(uuid, uuid)'
    ] LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC, anon, authenticated, service_role', callable);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO authenticated, service_role', callable);
    END LOOP;
END
$execute$;
COMMENT ON FUNCTION public.calculate_agent_quality_score IS 'Returns a score from 0 to 5 of a rating (0 to 5; NULL counts as 3.0), the number of uses, and the numbers of successes and errors.';
COMMENT ON FUNCTION public.user_agents_set_quality IS 'Trigger function: sets quality_score.';
-- A renamed policy keeps its comment; under the new name migrate repair finds it.
COMMENT ON POLICY "Users can view their own agent relationships" ON public.user_agents IS 'Users see their own rows.';
COMMENT ON POLICY "Users can insert their own agent relationships" ON public.user_agents IS 'Users insert rows for themselves.';
COMMENT ON POLICY "Users can update their own agent relationships" ON public.user_agents IS 'Users change their own rows.';
COMMENT ON POLICY "Service role has full access" ON public.user_agents IS 'A service_role without BYPASSRLS sees and changes every row.';
COMMENT ON POLICY "Users can delete their own agent relationships" ON public.user_agents IS 'Users delete their own rows.';
COMMENT ON POLICY "Team members can view shared agents" ON public.user_agents IS 'Users see live rows that are shared with them or a team of theirs; until 4.0.0.';
