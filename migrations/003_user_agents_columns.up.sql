-- version: 3.0.0
-- transaction: off
-- lock_timeout: 100ms
-- squawk-disable-assume-in-transaction
--
-- Each statement is short, or takes no lock that blocks readers and writers, and can be repeated after a kill.

-- A rollback to 2.0.0 that stopped before it dropped the columns left the current values in them.
DO $stopped$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgname = 'user_agents_keep_3_0_0') THEN
        DROP TRIGGER user_agents_keep_3_0_0 ON public.user_agents;
        DROP FUNCTION public.user_agents_keep_3_0_0();
        DROP TABLE public.user_agents_kept_3_0_0;
    END IF;
END
$stopped$;

-- Constant defaults are stored in the catalogue: no row is rewritten.
ALTER TABLE public.user_agents
    ADD COLUMN IF NOT EXISTS custom_name text,
    ADD COLUMN IF NOT EXISTS custom_description text,
    ADD COLUMN IF NOT EXISTS custom_avatar text,
    ADD COLUMN IF NOT EXISTS custom_color text,
    ADD COLUMN IF NOT EXISTS custom_system_prompt text,
    ADD COLUMN IF NOT EXISTS custom_temperature numeric(3, 2),
    -- squawk-ignore prefer-bigint-over-int -- the length of one answer of a model
    ADD COLUMN IF NOT EXISTS custom_max_tokens integer,
    ADD COLUMN IF NOT EXISTS is_favorite boolean DEFAULT false,
    ADD COLUMN IF NOT EXISTS is_pinned boolean DEFAULT false,
    ADD COLUMN IF NOT EXISTS folder text,
    ADD COLUMN IF NOT EXISTS tags text[],
    -- squawk-ignore prefer-bigint-over-int -- a place in the list of one user
    ADD COLUMN IF NOT EXISTS sort_order integer DEFAULT 0,
    ADD COLUMN IF NOT EXISTS display_position text,
    ADD COLUMN IF NOT EXISTS message_count bigint DEFAULT 0,
    ADD COLUMN IF NOT EXISTS conversation_count bigint DEFAULT 0,
    ADD COLUMN IF NOT EXISTS success_count bigint DEFAULT 0,
    ADD COLUMN IF NOT EXISTS error_count bigint DEFAULT 0,
    ADD COLUMN IF NOT EXISTS user_rating numeric(3, 2),
    ADD COLUMN IF NOT EXISTS quality_score numeric(3, 2),
    ADD COLUMN IF NOT EXISTS last_rating_at timestamptz,
    -- squawk-ignore prefer-bigint-over-int -- reaches to 24 days
    ADD COLUMN IF NOT EXISTS avg_response_time_ms integer,
    ADD COLUMN IF NOT EXISTS total_tokens_used bigint DEFAULT 0,
    ADD COLUMN IF NOT EXISTS total_cost_usd numeric(20, 10) DEFAULT 0,
    ADD COLUMN IF NOT EXISTS first_used_at timestamptz,
    ADD COLUMN IF NOT EXISTS archived_at timestamptz,
    ADD COLUMN IF NOT EXISTS deleted_at timestamptz,
    ADD COLUMN IF NOT EXISTS is_enabled boolean DEFAULT true,
    ADD COLUMN IF NOT EXISTS is_visible boolean DEFAULT true,
    ADD COLUMN IF NOT EXISTS status text DEFAULT 'active',
    ADD COLUMN IF NOT EXISTS settings jsonb DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS preferences jsonb DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS ui_config jsonb DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS source_details jsonb DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS share_settings jsonb DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS notification_settings jsonb DEFAULT '{"email": true, "in_app": true}',
    ADD COLUMN IF NOT EXISTS notifications_enabled boolean DEFAULT true,
    ADD COLUMN IF NOT EXISTS last_conversation_id uuid,
    ADD COLUMN IF NOT EXISTS notes text,
    ADD COLUMN IF NOT EXISTS quick_notes text,
    ADD COLUMN IF NOT EXISTS source text,
    ADD COLUMN IF NOT EXISTS is_shared boolean DEFAULT false,
    ADD COLUMN IF NOT EXISTS shared_with uuid[],
    ADD COLUMN IF NOT EXISTS team_id uuid;

-- Restores what a rollback to 2.0.0 kept aside. Each chunk moves in one transaction, so that a kill loses nothing and no
-- writer waits long for a row.
DO $restore$
DECLARE
    v_reached uuid := '00000000-0000-0000-0000-000000000000';
    v_upper_end uuid;
BEGIN
    IF to_regclass('public.user_agents_kept_3_0_0') IS NULL THEN
        RETURN;
    END IF;
    LOOP
        SELECT (array_agg(id ORDER BY id DESC))[1] INTO v_upper_end
        FROM (SELECT id FROM public.user_agents_kept_3_0_0 WHERE id >= v_reached ORDER BY id LIMIT 200) AS chunk;
        EXIT WHEN v_upper_end IS NULL;
        WITH chunk AS (
            DELETE FROM public.user_agents_kept_3_0_0 WHERE id BETWEEN v_reached AND v_upper_end RETURNING *
        )
        UPDATE public.user_agents AS u SET
            custom_name = k.custom_name,
            custom_description = k.custom_description,
            custom_avatar = k.custom_avatar,
            custom_color = k.custom_color,
            custom_system_prompt = k.custom_system_prompt,
            custom_temperature = k.custom_temperature,
            custom_max_tokens = k.custom_max_tokens,
            is_favorite = k.is_favorite,
            is_pinned = k.is_pinned,
            folder = k.folder,
            tags = k.tags,
            sort_order = k.sort_order,
            display_position = k.display_position,
            message_count = k.message_count,
            conversation_count = k.conversation_count,
            success_count = k.success_count,
            error_count = k.error_count,
            user_rating = k.user_rating,
            quality_score = k.quality_score,
            last_rating_at = k.last_rating_at,
            avg_response_time_ms = k.avg_response_time_ms,
            total_tokens_used = k.total_tokens_used,
            total_cost_usd = k.total_cost_usd,
            first_used_at = k.first_used_at,
            archived_at = k.archived_at,
            deleted_at = k.deleted_at,
            is_enabled = k.is_enabled,
            is_visible = k.is_visible,
            status = k.status,
            settings = k.settings,
            preferences = k.preferences,
            ui_config = k.ui_config,
            source_details = k.source_details,
            share_settings = k.share_settings,
            notification_settings = k.notification_settings,
            notifications_enabled = k.notifications_enabled,
            last_conversation_id = k.last_conversation_id,
            notes = k.notes,
            quick_notes = k.quick_notes,
            source = k.source,
            is_shared = k.is_shared,
            shared_with = k.shared_with,
            team_id = k.team_id
        FROM chunk AS k
        WHERE u.id = k.id;
        COMMIT;
        v_reached := v_upper_end;
    END LOOP;
    DROP TABLE public.user_agents_kept_3_0_0;
END
$restore$;
