-- squawk-disable-assume-in-transaction
--
-- The values of the dropped columns are kept in user_agents_kept_3_0_0, from which a later upgrade restores them. A
-- trigger keeps the copy current while it is filled in chunks, so that no writer waits for the copy and none is lost.

DO $begin$
BEGIN
    IF to_regclass('public.user_agents_kept_3_0_0') IS NOT NULL
        -- An upgrade that stopped before it added the columns: there is nothing to keep.
        OR NOT EXISTS (
            SELECT FROM pg_catalog.pg_attribute
            WHERE attrelid = 'public.user_agents'::regclass AND attname = 'custom_name'
        )
    THEN
        RETURN;
    END IF;
    CREATE TABLE public.user_agents_kept_3_0_0 (
        LIKE public.user_agents,
        PRIMARY KEY (id),
        -- A row that is deleted later must not remain here.
        FOREIGN KEY (id) REFERENCES public.user_agents (id) ON DELETE CASCADE
    );
    ALTER TABLE public.user_agents_kept_3_0_0 ENABLE ROW LEVEL SECURITY;
    REVOKE ALL ON public.user_agents_kept_3_0_0 FROM PUBLIC, anon, authenticated, service_role;

    -- SECURITY DEFINER: roles that write user_agents have no right on the copy.
    CREATE FUNCTION public.user_agents_keep_3_0_0() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
    BEGIN
        LOOP
            DELETE FROM public.user_agents_kept_3_0_0 WHERE id = NEW.id;
            INSERT INTO public.user_agents_kept_3_0_0 SELECT NEW.* ON CONFLICT DO NOTHING;
            -- Not found: the copy below has just written an older state of this row, which must be replaced.
            EXIT WHEN FOUND;
        END LOOP;
        RETURN NULL;
    END
    $body$;
    REVOKE ALL ON FUNCTION public.user_agents_keep_3_0_0() FROM PUBLIC, anon, authenticated, service_role;

    CREATE TRIGGER user_agents_keep_3_0_0 AFTER INSERT OR UPDATE ON public.user_agents
        FOR EACH ROW EXECUTE FUNCTION public.user_agents_keep_3_0_0();
END
$begin$;

DO $copy$
DECLARE
    reached uuid := '00000000-0000-0000-0000-000000000000';
    upper_end uuid;
BEGIN
    -- Without the trigger the copy is complete and the columns are already dropped.
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgname = 'user_agents_keep_3_0_0') THEN
        RETURN;
    END IF;
    LOOP
        SELECT (array_agg(id ORDER BY id DESC))[1] INTO upper_end
        FROM (SELECT id FROM public.user_agents WHERE id >= reached ORDER BY id LIMIT 200) AS chunk;
        EXIT WHEN upper_end IS NULL;
        INSERT INTO public.user_agents_kept_3_0_0
            SELECT * FROM public.user_agents WHERE id BETWEEN reached AND upper_end
            -- A row deleted at this moment is left out instead of failing the foreign key.
            FOR KEY SHARE
            ON CONFLICT DO NOTHING;
        COMMIT;
        EXIT WHEN upper_end = reached;
        reached := upper_end;
    END LOOP;
END
$copy$;

-- One statement, so that no write falls between the end of the copying and the end of the columns.
DO $end$
BEGIN
    DROP TRIGGER IF EXISTS user_agents_keep_3_0_0 ON public.user_agents;
    DROP FUNCTION IF EXISTS public.user_agents_keep_3_0_0();
    ALTER TABLE public.user_agents
        DROP COLUMN IF EXISTS custom_name,
        DROP COLUMN IF EXISTS custom_description,
        DROP COLUMN IF EXISTS custom_avatar,
        DROP COLUMN IF EXISTS custom_color,
        DROP COLUMN IF EXISTS custom_system_prompt,
        DROP COLUMN IF EXISTS custom_temperature,
        DROP COLUMN IF EXISTS custom_max_tokens,
        DROP COLUMN IF EXISTS is_favorite,
        DROP COLUMN IF EXISTS is_pinned,
        DROP COLUMN IF EXISTS folder,
        DROP COLUMN IF EXISTS tags,
        DROP COLUMN IF EXISTS sort_order,
        DROP COLUMN IF EXISTS display_position,
        DROP COLUMN IF EXISTS message_count,
        DROP COLUMN IF EXISTS conversation_count,
        DROP COLUMN IF EXISTS success_count,
        DROP COLUMN IF EXISTS error_count,
        DROP COLUMN IF EXISTS user_rating,
        DROP COLUMN IF EXISTS quality_score,
        DROP COLUMN IF EXISTS last_rating_at,
        DROP COLUMN IF EXISTS avg_response_time_ms,
        DROP COLUMN IF EXISTS total_tokens_used,
        DROP COLUMN IF EXISTS total_cost_usd,
        DROP COLUMN IF EXISTS first_used_at,
        DROP COLUMN IF EXISTS archived_at,
        DROP COLUMN IF EXISTS deleted_at,
        DROP COLUMN IF EXISTS is_enabled,
        DROP COLUMN IF EXISTS is_visible,
        DROP COLUMN IF EXISTS status,
        DROP COLUMN IF EXISTS settings,
        DROP COLUMN IF EXISTS preferences,
        DROP COLUMN IF EXISTS ui_config,
        DROP COLUMN IF EXISTS source_details,
        DROP COLUMN IF EXISTS share_settings,
        DROP COLUMN IF EXISTS notification_settings,
        DROP COLUMN IF EXISTS notifications_enabled,
        DROP COLUMN IF EXISTS last_conversation_id,
        DROP COLUMN IF EXISTS notes,
        DROP COLUMN IF EXISTS quick_notes,
        DROP COLUMN IF EXISTS source,
        DROP COLUMN IF EXISTS is_shared,
        DROP COLUMN IF EXISTS shared_with,
        DROP COLUMN IF EXISTS team_id;
    IF NOT EXISTS (SELECT FROM public.user_agents) THEN
        DROP TABLE IF EXISTS public.user_agents_kept_3_0_0;
    END IF;
END
$end$;
