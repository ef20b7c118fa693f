-- version: 4.0.0
-- transaction: off
-- lock_timeout: 100ms
-- squawk-disable-assume-in-transaction
-- squawk-ignore-file prefer-robust-stmts -- what has no IF NOT EXISTS changes nothing when it is repeated
--
-- What user_agents may hold. NULL is allowed everywhere. CHECKs only on narrow columns, because every update evaluates all
-- of them: jsonb_typeof() of a large value would make a counter update ten times as slow. Shapes of JSON and lengths of
-- texts are checked by triggers on those columns.

-- NOT VALID checks new values at once; VALIDATE then reads the old ones while clients continue. One statement for all: a
-- loop of 17 made sessions that inserted meanwhile crash PostgreSQL (5 of 8 upgrades with 15; with one statement 0 of 48).
DO $add$
BEGIN
    -- The constraints come together, so one tells whether a run that stopped has added them.
    IF EXISTS (
        SELECT FROM pg_catalog.pg_constraint
        WHERE conrelid = 'public.user_agents'::regclass AND conname = 'user_agents_usage_count_check'
    ) THEN
        RETURN;
    END IF;
    ALTER TABLE public.user_agents
        ADD CONSTRAINT user_agents_usage_count_check CHECK (usage_count >= 0) NOT VALID,
        ADD CONSTRAINT user_agents_message_count_check CHECK (message_count >= 0) NOT VALID,
        ADD CONSTRAINT user_agents_conversation_count_check CHECK (conversation_count >= 0) NOT VALID,
        ADD CONSTRAINT user_agents_success_count_check CHECK (success_count >= 0) NOT VALID,
        ADD CONSTRAINT user_agents_error_count_check CHECK (error_count >= 0) NOT VALID,
        ADD CONSTRAINT user_agents_total_tokens_used_check CHECK (total_tokens_used >= 0) NOT VALID,
        -- NaN is greater than any number; the column's type has no infinity.
        ADD CONSTRAINT user_agents_total_cost_usd_check CHECK (total_cost_usd >= 0 AND total_cost_usd < 'NaN') NOT VALID,
        ADD CONSTRAINT user_agents_response_time_total_ms_check CHECK (response_time_total_ms >= 0) NOT VALID,
        ADD CONSTRAINT user_agents_response_time_samples_check CHECK (response_time_samples >= 0) NOT VALID,
        ADD CONSTRAINT user_agents_avg_response_time_ms_check CHECK (avg_response_time_ms >= 0) NOT VALID,
        ADD CONSTRAINT user_agents_user_rating_check CHECK (user_rating BETWEEN 0 AND 5) NOT VALID,
        ADD CONSTRAINT user_agents_quality_score_check CHECK (quality_score BETWEEN 0 AND 5) NOT VALID,
        ADD CONSTRAINT user_agents_custom_temperature_check CHECK (custom_temperature BETWEEN 0 AND 2) NOT VALID,
        ADD CONSTRAINT user_agents_custom_max_tokens_check CHECK (custom_max_tokens > 0) NOT VALID,
        ADD CONSTRAINT user_agents_display_position_check
            CHECK (display_position IN ('sidebar', 'dashboard', 'hidden')) NOT VALID,
        ADD CONSTRAINT user_agents_status_check
            CHECK (status IN ('active', 'paused', 'archived', 'disabled')) NOT VALID,
        ADD CONSTRAINT user_agents_source_check
            CHECK (source IN ('store', 'custom', 'imported', 'template', 'recommended')) NOT VALID;
END
$add$;

ALTER TABLE public.user_agents
    VALIDATE CONSTRAINT user_agents_usage_count_check,
    VALIDATE CONSTRAINT user_agents_message_count_check,
    VALIDATE CONSTRAINT user_agents_conversation_count_check,
    VALIDATE CONSTRAINT user_agents_success_count_check,
    VALIDATE CONSTRAINT user_agents_error_count_check,
    VALIDATE CONSTRAINT user_agents_total_tokens_used_check,
    VALIDATE CONSTRAINT user_agents_total_cost_usd_check,
    VALIDATE CONSTRAINT user_agents_response_time_total_ms_check,
    VALIDATE CONSTRAINT user_agents_response_time_samples_check,
    VALIDATE CONSTRAINT user_agents_avg_response_time_ms_check,
    VALIDATE CONSTRAINT user_agents_user_rating_check,
    VALIDATE CONSTRAINT user_agents_quality_score_check,
    VALIDATE CONSTRAINT user_agents_custom_temperature_check,
    VALIDATE CONSTRAINT user_agents_custom_max_tokens_check,
    VALIDATE CONSTRAINT user_agents_display_position_check,
    VALIDATE CONSTRAINT user_agents_status_check,
    VALIDATE CONSTRAINT user_agents_source_check;

-- Only what the statement changes is checked: rows that were too long or too large before can still be edited. Limits are
-- generous; they keep one user from filling the table, and a list of agents from loading megabytes.
CREATE OR REPLACE FUNCTION public.user_agents_check_contents() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_column pg_catalog.text;
    v_limit pg_catalog.text;
BEGIN
    SELECT refused.name, refused.rule INTO v_column, v_limit
      FROM (
        SELECT c.name, format('at most %s characters, not %s', c.most, length(c.new)) AS rule
          FROM (VALUES
            ('custom_name', 255, OLD.custom_name, NEW.custom_name),
            ('custom_description', 100000, OLD.custom_description, NEW.custom_description),
            ('custom_avatar', 100000, OLD.custom_avatar, NEW.custom_avatar),
            ('custom_color', 255, OLD.custom_color, NEW.custom_color),
            ('custom_system_prompt', 100000, OLD.custom_system_prompt, NEW.custom_system_prompt),
            ('folder', 255, OLD.folder, NEW.folder),
            ('notes', 100000, OLD.notes, NEW.notes),
            ('quick_notes', 100000, OLD.quick_notes, NEW.quick_notes)
          ) AS c (name, most, old, new)
         WHERE length(c.new) > c.most AND c.new IS DISTINCT FROM c.old
        UNION ALL
        SELECT 'tags', 'at most 1000 tags of 255 characters'
         WHERE NEW.tags IS DISTINCT FROM OLD.tags
           AND (cardinality(NEW.tags) > 1000 OR EXISTS (SELECT FROM unnest(NEW.tags) AS tag WHERE length(tag) > 255))
        UNION ALL
        SELECT c.name, 'a JSON object of at most 1000000 bytes'
          FROM (VALUES
            ('settings', OLD.settings, NEW.settings),
            ('preferences', OLD.preferences, NEW.preferences),
            ('ui_config', OLD.ui_config, NEW.ui_config),
            ('notification_settings', OLD.notification_settings, NEW.notification_settings),
            ('metadata', OLD.metadata, NEW.metadata),
            ('source_details', OLD.source_details, NEW.source_details),
            ('share_settings', OLD.share_settings, NEW.share_settings)
          ) AS c (name, old, new)
         WHERE (jsonb_typeof(c.new) <> 'object' OR pg_column_size(c.new) > 1000000) AND c.new IS DISTINCT FROM c.old
        UNION ALL
        -- Clients cannot read infinity, and the purge compares these times.
        SELECT c.name, 'a finite time'
          FROM (VALUES
            ('added_at', NEW.added_at),
            ('created_at', NEW.created_at),
            ('archived_at', NEW.archived_at),
            ('deleted_at', NEW.deleted_at)
          ) AS c (name, new)
         WHERE NOT isfinite(c.new)
      ) AS refused;
    IF FOUND THEN
        RAISE check_violation USING
            MESSAGE = format('user_agents.%s: %s', v_column, v_limit),
            SCHEMA = 'public', TABLE = 'user_agents', COLUMN = v_column;
    END IF;
    RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION public.user_agents_check_contents() FROM PUBLIC, anon, authenticated, service_role;

-- Ingest names none of these columns.
CREATE OR REPLACE TRIGGER user_agents_check_contents
    BEFORE UPDATE OF
        custom_name, custom_description, custom_avatar, custom_color, custom_system_prompt, folder, tags, notes,
        quick_notes, settings, preferences, ui_config, notification_settings, metadata, source_details, share_settings,
        added_at, created_at, archived_at, deleted_at
    ON public.user_agents FOR EACH ROW EXECUTE FUNCTION public.user_agents_check_contents();
-- WHEN skips the rows that ingest inserts: they hold the defaults.
CREATE OR REPLACE TRIGGER user_agents_check_new_contents BEFORE INSERT ON public.user_agents
    FOR EACH ROW WHEN (
        num_nonnulls(
            NEW.custom_name, NEW.custom_description, NEW.custom_avatar, NEW.custom_color, NEW.custom_system_prompt,
            NEW.folder, NEW.tags, NEW.notes, NEW.quick_notes
        ) > 0
        OR NEW.settings <> '{}' OR NEW.preferences <> '{}' OR NEW.ui_config <> '{}' OR NEW.metadata <> '{}'
        OR NEW.source_details <> '{}' OR NEW.share_settings <> '{}'
        OR NEW.notification_settings <> '{"email": true, "in_app": true}'
        OR NOT isfinite(NEW.added_at) OR NOT isfinite(NEW.created_at) OR NOT isfinite(NEW.archived_at)
        OR NOT isfinite(NEW.deleted_at)
    ) EXECUTE FUNCTION public.user_agents_check_contents();
COMMENT ON FUNCTION public.user_agents_check_contents IS 'Trigger function: refuses texts, tags and JSON that are too long, JSON that is not an object, and infinite times.';
