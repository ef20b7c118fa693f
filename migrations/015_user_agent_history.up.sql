-- version: 4.0.0
-- lock_timeout: 100ms
--
-- The audit trail of what users change in user_agents: column, user and time, and the values of columns that cannot hold a
-- user's words. No foreign key: it outlives its rows and users. Counter updates do not write it. Statements that lock
-- user_agents come last.

DO $trail$
BEGIN
    -- A rollback from 4.0.0 kept it aside.
    IF to_regclass('public.user_agent_history_kept_4_0_0') IS NOT NULL THEN
        ALTER TABLE public.user_agent_history_kept_4_0_0 RENAME TO user_agent_history;
        RETURN;
    END IF;
    CREATE TABLE public.user_agent_history (
        id bigint GENERATED ALWAYS AS IDENTITY,
        user_agent_id uuid NOT NULL,
        user_id uuid NOT NULL,
        agent_id uuid NOT NULL,
        action text NOT NULL CHECK (
            action IN (
                'update', 'rate', 'soft_delete', 'restore', 'share', 'accept', 'decline', 'unshare', 'delete', 'purge'
            )
        ),
        changes jsonb NOT NULL,
        actor uuid DEFAULT auth.uid(),
        -- As set, and not the owner of the function that writes.
        actor_role text NOT NULL DEFAULT coalesce(nullif(current_setting('role', true), 'none'), session_user::text),
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (id, created_at)
    ) PARTITION BY RANGE (created_at);
    CREATE INDEX idx_user_agent_history_user_id ON public.user_agent_history (user_id, created_at DESC);
    ALTER TABLE public.user_agent_history ENABLE ROW LEVEL SECURITY;
    CREATE POLICY user_agent_history_select_own ON public.user_agent_history FOR SELECT TO authenticated
        USING (user_id = (SELECT auth.uid()));
    CREATE POLICY user_agent_history_service_role ON public.user_agent_history FOR SELECT TO service_role
        USING (true);
END
$trail$;
-- Only the triggers write it; their owner needs no grant.
REVOKE ALL ON public.user_agent_history FROM PUBLIC, anon, authenticated, service_role;
REVOKE ALL ON SEQUENCE public.user_agent_history_id_seq FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.user_agent_history TO authenticated, service_role;

-- Creates the partition of a UTC month, as usage_events_ensure_day does for a day. There is no default partition: rows in
-- it would prevent their month from being attached, and each ATTACH would lock and read it. Instead, the first change of
-- a month creates its partition if the periodic task has not done so.
CREATE FUNCTION public.user_agent_history_ensure_month(p_day date) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_first timestamp := date_trunc('month', p_day::timestamp);
    v_name pg_catalog.text := 'user_agent_history_' || to_char(v_first, 'YYYYMM');
BEGIN
    IF to_regclass(format('public.%I', v_name)) IS NOT NULL THEN
        RETURN;
    END IF;
    BEGIN
        EXECUTE format('CREATE TABLE public.%I (LIKE public.user_agent_history INCLUDING ALL EXCLUDING IDENTITY)', v_name);
        -- A partition inherits neither row-level security nor the absence of grants. It is read through its table.
        EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', v_name);
        EXECUTE format('REVOKE ALL ON public.%I FROM PUBLIC, anon, authenticated, service_role', v_name);
        EXECUTE format('ALTER TABLE public.user_agent_history ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                       v_name, v_first AT TIME ZONE 'UTC', (v_first + interval '1 month') AT TIME ZONE 'UTC');
    EXCEPTION WHEN duplicate_table OR duplicate_object OR unique_violation THEN
        -- Another session was first; this one waited for its commit, and the partition exists.
        NULL;
    END;
END $$;

-- Compares the columns that the trigger names. It keeps the values of those in v_closed, which hold numbers, booleans, times
-- or one of few words. Of a column that is not in the list, also a new one, it keeps only that it changed: what a user
-- wrote must not outlive the user's account.
CREATE FUNCTION public.user_agents_record_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    v_old pg_catalog.jsonb := to_jsonb(OLD);
    v_new pg_catalog.jsonb := to_jsonb(NEW);
    v_changes pg_catalog.jsonb;
    v_closed pg_catalog.text[] := ARRAY[
        'custom_temperature', 'custom_max_tokens', 'is_favorite', 'is_pinned', 'sort_order', 'display_position',
        'user_rating', 'archived_at', 'deleted_at', 'is_active', 'is_enabled', 'is_visible', 'status',
        'notifications_enabled', 'source'
    ];
BEGIN
    SELECT jsonb_object_agg(
               c.name,
               CASE WHEN c.name = ANY (v_closed)
                    THEN jsonb_build_object('old', v_old -> c.name, 'new', v_new -> c.name) ELSE '{}' END
           ) INTO v_changes
      FROM (
        SELECT a.attname::text AS name
          FROM pg_catalog.pg_trigger t
          JOIN pg_catalog.pg_attribute a ON a.attrelid = t.tgrelid AND a.attnum = ANY (t.tgattr)
         WHERE t.tgrelid = TG_RELID AND t.tgname = TG_NAME
      ) c
     WHERE v_old -> c.name IS DISTINCT FROM v_new -> c.name;
    IF v_changes IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM public.user_agent_history_ensure_month(now()::date);
    INSERT INTO public.user_agent_history (user_agent_id, user_id, agent_id, action, changes)
    VALUES (
        NEW.id, NEW.user_id, NEW.agent_id,
        CASE
            WHEN v_changes ? 'user_rating' THEN 'rate'
            WHEN OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL THEN 'soft_delete'
            WHEN OLD.deleted_at IS NOT NULL AND NEW.deleted_at IS NULL THEN 'restore'
            ELSE 'update'
        END,
        v_changes
    );
    RETURN NULL;
END $$;

-- Records that the row existed, its owner, and who deleted it when, but not its values.
CREATE FUNCTION public.user_agents_record_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    v_caller pg_catalog.name := coalesce(nullif(current_setting('role', true), 'none'), session_user);
    v_action pg_catalog.text := 'delete';
BEGIN
    IF NOT EXISTS (SELECT FROM gone) THEN
        RETURN NULL;
    END IF;
    -- Any role can set a setting; only roles of the application purge.
    IF current_setting('usage_worker.action', true) = 'purge'
       AND (v_caller = current_user OR pg_has_role(v_caller, 'service_role', 'MEMBER')) THEN
        v_action := 'purge';
    END IF;
    PERFORM public.user_agent_history_ensure_month(now()::date);
    INSERT INTO public.user_agent_history (user_agent_id, user_id, agent_id, action, changes)
    SELECT id, user_id, agent_id, v_action,
           CASE
               WHEN deleted_at IS NULL THEN '{}'
               ELSE jsonb_build_object('deleted_at', jsonb_build_object('old', deleted_at, 'new', NULL))
           END
      FROM gone;
    RETURN NULL;
END $$;

REVOKE ALL ON FUNCTION public.user_agent_history_ensure_month(date), public.user_agents_record_change(),
    public.user_agents_record_delete() FROM PUBLIC, anon, authenticated, service_role;

DO $months$
BEGIN
    PERFORM public.user_agent_history_ensure_month(((now() AT TIME ZONE 'UTC') + ahead * interval '1 month')::date)
       FROM generate_series(0, 1) AS ahead;
END
$months$;

-- Before the statements that lock user_agents.
DO $comments$
BEGIN
    COMMENT ON TABLE public.user_agent_history IS 'The audit trail: what users changed in user_agents, without counters; written by triggers, partitioned by UTC month, dropped after USAGE_HISTORY_RETENTION_DAYS.';
    COMMENT ON COLUMN public.user_agent_history.id IS 'Identifies the change, in the order in which changes were written.';
    COMMENT ON COLUMN public.user_agent_history.user_agent_id IS 'Id of the row; the row may be gone.';
    COMMENT ON COLUMN public.user_agent_history.user_id IS 'Owner of the row, not the user who changed it.';
    COMMENT ON COLUMN public.user_agent_history.agent_id IS 'Agent of the row.';
    COMMENT ON COLUMN public.user_agent_history.action IS 'update, rate, soft_delete, restore, share, unshare, accept, decline, delete or purge.';
    COMMENT ON COLUMN public.user_agent_history.changes IS 'What changed: {column: {"old": value, "new": value}}, times in UTC; {column: {}} where the column may hold words of a user.';
    COMMENT ON COLUMN public.user_agent_history.actor IS 'auth.uid() of the session; NULL where a service acted, see actor_role.';
    COMMENT ON COLUMN public.user_agent_history.actor_role IS 'Role of the session that made the change.';
    COMMENT ON COLUMN public.user_agent_history.created_at IS 'When the change was made.';
    COMMENT ON INDEX public.user_agent_history_pkey IS 'Finds a change by its id and time.';
    COMMENT ON INDEX public.idx_user_agent_history_user_id IS 'Finds the changes of a user''s rows, the newest first.';
    COMMENT ON POLICY user_agent_history_select_own ON public.user_agent_history IS 'Users see the changes of their own rows.';
    COMMENT ON POLICY user_agent_history_service_role ON public.user_agent_history IS 'A service_role without BYPASSRLS reads every change.';
    COMMENT ON FUNCTION public.user_agent_history_ensure_month IS 'Creates the partition of a UTC month of the audit trail unless it exists.';
    COMMENT ON FUNCTION public.user_agents_record_change IS 'Trigger function: records an update in the audit trail.';
    COMMENT ON FUNCTION public.user_agents_record_delete IS 'Trigger function: records deleted rows in the audit trail, without their values.';
END
$comments$;

-- Ingest names none of these columns, so the first trigger costs it nothing.
CREATE TRIGGER user_agents_record_change
    AFTER UPDATE OF
        custom_name, custom_description, custom_avatar, custom_color, custom_system_prompt, custom_temperature,
        custom_max_tokens, is_favorite, is_pinned, folder, tags, sort_order, display_position,
        archived_at, deleted_at, is_active, is_enabled, is_visible, status, settings, preferences, ui_config,
        source_details, share_settings, notification_settings, metadata, notifications_enabled, notes, quick_notes, source
    ON public.user_agents FOR EACH ROW EXECUTE FUNCTION public.user_agents_record_change();
-- Ingest names the rating in each update and changes it in few: a separate trigger compares only this number.
CREATE TRIGGER user_agents_record_rating
    AFTER UPDATE OF user_rating ON public.user_agents FOR EACH ROW
    WHEN (OLD.user_rating IS DISTINCT FROM NEW.user_rating) EXECUTE FUNCTION public.user_agents_record_change();
CREATE TRIGGER user_agents_record_delete AFTER DELETE ON public.user_agents
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION public.user_agents_record_delete();
