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

-- Changes no row and blocks no client.
DO $comments$
BEGIN
    COMMENT ON COLUMN public.user_agents.custom_name IS 'The user''s name for the agent; NULL: the agent''s own.';
    COMMENT ON COLUMN public.user_agents.custom_description IS 'The user''s description of the agent; NULL: the agent''s own.';
    COMMENT ON COLUMN public.user_agents.custom_avatar IS 'Address of the user''s picture for the agent; NULL: the agent''s own.';
    COMMENT ON COLUMN public.user_agents.custom_color IS 'The user''s color for the agent, in the notation of the application.';
    COMMENT ON COLUMN public.user_agents.custom_system_prompt IS 'The user''s system prompt for the agent; NULL: the agent''s own.';
    COMMENT ON COLUMN public.user_agents.custom_temperature IS 'The user''s sampling temperature of the model; NULL: the agent''s own.';
    COMMENT ON COLUMN public.user_agents.custom_max_tokens IS 'The user''s limit for the length of one answer, in tokens; NULL: the agent''s own.';
    COMMENT ON COLUMN public.user_agents.is_favorite IS 'Whether the user marked the agent as a favorite; user_favorite_agents lists these.';
    COMMENT ON COLUMN public.user_agents.is_pinned IS 'Whether the user pinned the agent to the top of lists.';
    COMMENT ON COLUMN public.user_agents.folder IS 'Name of the folder in which the user keeps the agent; NULL: none.';
    COMMENT ON COLUMN public.user_agents.tags IS 'The user''s labels for the agent.';
    COMMENT ON COLUMN public.user_agents.sort_order IS 'Place in the user''s list, the smallest number first.';
    COMMENT ON COLUMN public.user_agents.display_position IS 'Where the application shows the agent: sidebar, dashboard or hidden; NULL: not chosen.';
    COMMENT ON COLUMN public.user_agents.message_count IS 'Number of messages in all uses; written by the workers.';
    COMMENT ON COLUMN public.user_agents.conversation_count IS 'Number of different conversations; written by the workers.';
    COMMENT ON COLUMN public.user_agents.success_count IS 'Number of uses that succeeded; written by the workers.';
    COMMENT ON COLUMN public.user_agents.error_count IS 'Number of uses that failed; written by the workers.';
    COMMENT ON COLUMN public.user_agents.user_rating IS 'The user''s last rating, from 0 to 5; written by the application and by rating events.';
    COMMENT ON COLUMN public.user_agents.quality_score IS 'Score from 0 to 5, by calculate_agent_quality_score(); written by a trigger.';
    COMMENT ON COLUMN public.user_agents.last_rating_at IS 'Time of the last rating; written by the application and by rating events.';
    COMMENT ON COLUMN public.user_agents.avg_response_time_ms IS 'Mean response time in milliseconds of the uses that reported one; NULL: none did; written by the workers.';
    COMMENT ON COLUMN public.user_agents.total_tokens_used IS 'Number of tokens of all uses, input and output; written by the workers.';
    COMMENT ON COLUMN public.user_agents.total_cost_usd IS 'Cost of all uses in US dollars; written by the workers.';
    COMMENT ON COLUMN public.user_agents.first_used_at IS 'Time of the oldest counted event; NULL before the first; written by the workers.';
    COMMENT ON COLUMN public.user_agents.archived_at IS 'When the user archived the agent; NULL: not archived; written by the application.';
    COMMENT ON COLUMN public.user_agents.deleted_at IS 'When the row was soft-deleted; NULL: it is live; after USAGE_PURGE_AFTER_DAYS the purge deletes it.';
    COMMENT ON COLUMN public.user_agents.is_enabled IS 'Whether the user may start the agent; written by the application.';
    COMMENT ON COLUMN public.user_agents.is_visible IS 'Whether lists show the agent; written by the application.';
    COMMENT ON COLUMN public.user_agents.status IS 'State that the user gave the agent: active, paused, archived or disabled.';
    COMMENT ON COLUMN public.user_agents.settings IS 'JSON object with the user''s settings for the agent; written by the application.';
    COMMENT ON COLUMN public.user_agents.preferences IS 'JSON object with the user''s preferences for the agent; written by the application.';
    COMMENT ON COLUMN public.user_agents.ui_config IS 'JSON object with the state of the application''s pages; written by the application.';
    COMMENT ON COLUMN public.user_agents.source_details IS 'JSON object with details of where the agent came from; written by the application.';
    COMMENT ON COLUMN public.user_agents.share_settings IS 'JSON object with the application''s settings of sharing; grants no access.';
    COMMENT ON COLUMN public.user_agents.notification_settings IS 'JSON object with one boolean for each channel of notification; written by the application.';
    COMMENT ON COLUMN public.user_agents.notifications_enabled IS 'Whether the application notifies the user about the agent.';
    COMMENT ON COLUMN public.user_agents.last_conversation_id IS 'Conversation of the newest event that has one; written by the workers.';
    COMMENT ON COLUMN public.user_agents.notes IS 'The user''s notes about the agent.';
    COMMENT ON COLUMN public.user_agents.quick_notes IS 'The user''s short notes about the agent.';
    COMMENT ON COLUMN public.user_agents.source IS 'Where the agent came from: store, custom, imported, template or recommended.';
    COMMENT ON COLUMN public.user_agents.is_shared IS 'Whether the row is shared with anybody; from 4.0.0 on kept equal to user_agent_shares.';
    COMMENT ON COLUMN public.user_agents.shared_with IS 'The users with whom the row is shared; from 4.0.0 on kept equal to user_agent_shares.';
    COMMENT ON COLUMN public.user_agents.team_id IS 'The team with which the row is shared; from 4.0.0 on kept equal to user_agent_shares, which may name more.';
END
$comments$;
