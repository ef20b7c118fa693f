-- version: 3.0.0
-- transaction: off
-- lock_timeout: 100ms
-- squawk-disable-assume-in-transaction
--
-- Each statement is short, or takes no lock that readers and writers wait for, and can be run again after a kill.

-- A way back to 2.0.0 that stopped before it dropped a column left the live values where they are.
DO $stopped$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgname = 'user_agents_keep_3_0_0') THEN
        DROP TRIGGER user_agents_keep_3_0_0 ON public.user_agents;
        DROP FUNCTION public.user_agents_keep_3_0_0();
        DROP TABLE public.user_agents_kept_3_0_0;
    END IF;
END
$stopped$;

-- PostgreSQL gives the number of a dropped column to no other, and a table has 1,600: each way to 3.0.0 and back uses up
-- 43. When half of them are gone, after 19 such ways, the table is made anew: a trigger keeps the new one current while it
-- is filled in chunks, then it takes the old one's place with all that hangs on that. No client waits longer than for any
-- other step.
DO $begin$
DECLARE
    v_statement text;
BEGIN
    IF to_regclass('public.user_agents_renewed') IS NOT NULL
        OR (SELECT relnatts FROM pg_catalog.pg_class WHERE oid = 'public.user_agents'::regclass) < 800
    THEN
        RETURN;
    END IF;
    CREATE TABLE public.user_agents_renewed (
        LIKE public.user_agents INCLUDING ALL,
        -- Who is deleted meanwhile goes from here, too.
        FOREIGN KEY (id) REFERENCES public.user_agents (id) ON DELETE CASCADE
    );
    ALTER TABLE public.user_agents_renewed ENABLE ROW LEVEL SECURITY;
    REVOKE ALL ON public.user_agents_renewed FROM PUBLIC, anon, authenticated, service_role;
    FOR v_statement IN
        SELECT format('ALTER TABLE public.user_agents_renewed ADD CONSTRAINT %I %s', conname, pg_get_constraintdef(oid))
        FROM pg_catalog.pg_constraint WHERE conrelid = 'public.user_agents'::regclass AND contype = 'f'
    LOOP
        EXECUTE v_statement;
    END LOOP;

    -- SECURITY DEFINER: whoever writes user_agents has no right on the new table.
    CREATE FUNCTION public.user_agents_renew() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
    BEGIN
        LOOP
            DELETE FROM public.user_agents_renewed WHERE id = NEW.id;
            INSERT INTO public.user_agents_renewed SELECT NEW.* ON CONFLICT DO NOTHING;
            -- Not found: the copy below has just written an older state of this row, which must go.
            EXIT WHEN FOUND;
        END LOOP;
        RETURN NULL;
    END
    $body$;
    REVOKE ALL ON FUNCTION public.user_agents_renew() FROM PUBLIC, anon, authenticated, service_role;
    CREATE TRIGGER user_agents_renew AFTER INSERT OR UPDATE ON public.user_agents
        FOR EACH ROW EXECUTE FUNCTION public.user_agents_renew();
END
$begin$;

DO $copy$
DECLARE
    v_reached uuid := '00000000-0000-0000-0000-000000000000';
    v_upper_end uuid;
BEGIN
    WHILE to_regclass('public.user_agents_renewed') IS NOT NULL LOOP
        SELECT (array_agg(id ORDER BY id DESC))[1] INTO v_upper_end
        FROM (SELECT id FROM public.user_agents WHERE id >= v_reached ORDER BY id LIMIT 200) AS chunk;
        EXIT WHEN v_upper_end IS NULL;
        INSERT INTO public.user_agents_renewed
            SELECT * FROM public.user_agents WHERE id BETWEEN v_reached AND v_upper_end
            -- A row deleted at this moment is left out instead of failing the foreign key.
            FOR KEY SHARE
            ON CONFLICT DO NOTHING;
        COMMIT;
        EXIT WHEN v_upper_end = v_reached;
        v_reached := v_upper_end;
    END LOOP;
END
$copy$;

DO $swap$
DECLARE
    v_old CONSTANT regclass := 'public.user_agents';
    v_before text[];
    v_after text[];
    v_last text[];
    v_statement text;
    v_detail text;
BEGIN
    IF to_regclass('public.user_agents_renewed') IS NULL THEN
        RETURN;
    END IF;
    -- Three tables are locked one after the other, and clients wait for the first meanwhile.
    SET LOCAL lock_timeout = '50ms';
    LOCK TABLE public.user_agents IN ACCESS EXCLUSIVE MODE;
    DROP TRIGGER user_agents_renew ON public.user_agents;
    DROP FUNCTION public.user_agents_renew();
    ALTER TABLE public.user_agents_renewed DROP CONSTRAINT user_agents_renewed_id_fkey;

    SELECT
        coalesce(array_agg(format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname)), '{}'),
        -- Checking what is there can wait until everybody may go on.
        coalesce(
            array_agg(format('ALTER TABLE %s VALIDATE CONSTRAINT %I', conrelid::regclass, conname))
            FILTER (WHERE convalidated), '{}'
        )
    INTO v_before, v_last
    FROM pg_catalog.pg_constraint WHERE confrelid = v_old;
    SELECT array_agg(statement) INTO v_after FROM (
        SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
            || CASE WHEN convalidated THEN ' NOT VALID' ELSE '' END AS statement
        FROM pg_catalog.pg_constraint WHERE confrelid = v_old
        UNION ALL
        -- LIKE makes the indexes in the order of their oids, under names of its own.
        SELECT format('ALTER INDEX public.%I RENAME TO %I', renewed.relname, old.relname)
        FROM (
            SELECT relname, row_number() OVER (ORDER BY oid) AS place
            FROM pg_catalog.pg_class JOIN pg_catalog.pg_index ON indexrelid = oid WHERE indrelid = v_old
        ) AS old JOIN (
            SELECT relname, row_number() OVER (ORDER BY oid) AS place
            FROM pg_catalog.pg_class JOIN pg_catalog.pg_index ON indexrelid = oid
            WHERE indrelid = 'public.user_agents_renewed'::regclass
        ) AS renewed USING (place)
        UNION ALL
        SELECT format(
            'CREATE POLICY %I ON public.user_agents AS %s FOR %s TO %s%s%s', policyname, permissive, cmd,
            (SELECT string_agg(coalesce(to_regrole(quote_ident(role))::text, 'PUBLIC'), ', ') FROM unnest(roles) AS role),
            ' USING (' || qual || ')', ' WITH CHECK (' || with_check || ')'
        )
        FROM pg_catalog.pg_policies WHERE schemaname = 'public' AND tablename = 'user_agents'
        UNION ALL
        SELECT pg_get_triggerdef(oid) FROM pg_catalog.pg_trigger WHERE tgrelid = v_old AND NOT tgisinternal
        UNION ALL
        SELECT format(
            'GRANT %s%s ON public.user_agents TO %s', privilege_type, part,
            CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END
        )
        FROM (
            SELECT relacl AS acl, NULL AS part FROM pg_catalog.pg_class WHERE oid = v_old
            UNION ALL
            SELECT attacl, format(' (%I)', attname) FROM pg_catalog.pg_attribute WHERE attrelid = v_old
        ) AS granted, aclexplode(acl)
        UNION ALL
        SELECT format(
            'ALTER PUBLICATION %I ADD TABLE public.user_agents%s%s', pubname,
            (
                SELECT format(' (%s)', string_agg(quote_ident(attname), ', ')) FROM pg_catalog.pg_attribute
                WHERE attrelid = prrelid AND attnum = ANY (prattrs) HAVING count(*) > 0
            ),
            ' WHERE (' || pg_get_expr(prqual, prrelid) || ')'
        )
        FROM pg_catalog.pg_publication_rel AS r JOIN pg_catalog.pg_publication AS p ON p.oid = r.prpubid
        WHERE prrelid = v_old
        UNION ALL
        SELECT format('ALTER TABLE public.user_agents SET (%s)', array_to_string(reloptions, ', '))
        FROM pg_catalog.pg_class WHERE oid = v_old AND reloptions IS NOT NULL
        UNION ALL
        SELECT format('COMMENT ON TABLE public.user_agents IS %L', obj_description(v_old, 'pg_class'))
        UNION ALL
        SELECT format('ALTER TABLE public.user_agents OWNER TO %s', relowner::regrole)
        FROM pg_catalog.pg_class WHERE oid = v_old
    ) AS statements;

    FOREACH v_statement IN ARRAY v_before LOOP
        EXECUTE v_statement;
    END LOOP;
    BEGIN
        DROP TABLE public.user_agents;
    EXCEPTION WHEN dependent_objects_still_exist THEN
        GET STACKED DIAGNOSTICS v_detail = PG_EXCEPTION_DETAIL;
        RAISE dependent_objects_still_exist USING
            MESSAGE = 'user_agents has to be made anew, but ' || v_detail,
            HINT = 'drop what depends on it and make it again after the upgrade';
    END;
    ALTER TABLE public.user_agents_renewed RENAME TO user_agents;
    FOREACH v_statement IN ARRAY v_after LOOP
        EXECUTE v_statement;
    END LOOP;
    COMMIT;
    FOREACH v_statement IN ARRAY v_last LOOP
        EXECUTE v_statement;
    END LOOP;
    ANALYZE public.user_agents;
END
$swap$;

-- Constant defaults live in the catalogue: no row is rewritten.
ALTER TABLE public.user_agents
    ADD COLUMN IF NOT EXISTS custom_name text,
    ADD COLUMN IF NOT EXISTS custom_description text,
    ADD COLUMN IF NOT EXISTS custom_avatar text,
    ADD COLUMN IF NOT EXISTS custom_color text,
    ADD COLUMN IF NOT EXISTS custom_system_prompt text,
    ADD COLUMN IF NOT EXISTS custom_temperature numeric(3, 2),
    -- squawk-ignore prefer-bigint-over-int -- the length of one answer of a model
    ADD COLUMN IF NOT EXISTS custom_max_tokens integer,
    ADD COLUMN IF NOT EXISTS is_favorite boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS is_pinned boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS folder text,
    ADD COLUMN IF NOT EXISTS tags text[],
    -- squawk-ignore prefer-bigint-over-int -- a place in the list of one user
    ADD COLUMN IF NOT EXISTS sort_order integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS display_position text,
    ADD COLUMN IF NOT EXISTS message_count bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS conversation_count bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS success_count bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS error_count bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS user_rating numeric(3, 2),
    ADD COLUMN IF NOT EXISTS quality_score numeric(3, 2),
    ADD COLUMN IF NOT EXISTS last_rating_at timestamptz,
    -- squawk-ignore prefer-bigint-over-int -- reaches to 24 days
    ADD COLUMN IF NOT EXISTS avg_response_time_ms integer,
    ADD COLUMN IF NOT EXISTS total_tokens_used bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS total_cost_usd numeric(20, 10) NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS first_used_at timestamptz,
    ADD COLUMN IF NOT EXISTS archived_at timestamptz,
    ADD COLUMN IF NOT EXISTS deleted_at timestamptz,
    ADD COLUMN IF NOT EXISTS is_enabled boolean NOT NULL DEFAULT true,
    ADD COLUMN IF NOT EXISTS is_visible boolean NOT NULL DEFAULT true,
    ADD COLUMN IF NOT EXISTS status text NOT NULL DEFAULT 'active',
    ADD COLUMN IF NOT EXISTS settings jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS preferences jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS ui_config jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS source_details jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS share_settings jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS notification_settings jsonb NOT NULL DEFAULT '{"email": true, "in_app": true}',
    ADD COLUMN IF NOT EXISTS notifications_enabled boolean NOT NULL DEFAULT true,
    ADD COLUMN IF NOT EXISTS last_conversation_id uuid,
    ADD COLUMN IF NOT EXISTS notes text,
    ADD COLUMN IF NOT EXISTS quick_notes text,
    ADD COLUMN IF NOT EXISTS source text,
    ADD COLUMN IF NOT EXISTS is_shared boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS shared_with uuid[],
    ADD COLUMN IF NOT EXISTS team_id uuid;

-- squawk-ignore-file ban-drop-constraint -- dropped is what the same statement adds, left by a run that stopped
-- NOT VALID checks new values at once; VALIDATE then reads the old ones without stopping anybody.
ALTER TABLE public.user_agents
    DROP CONSTRAINT IF EXISTS user_agents_display_position_check,
    DROP CONSTRAINT IF EXISTS user_agents_user_rating_check,
    DROP CONSTRAINT IF EXISTS user_agents_quality_score_check,
    DROP CONSTRAINT IF EXISTS user_agents_status_check,
    DROP CONSTRAINT IF EXISTS user_agents_source_check,
    ADD CONSTRAINT user_agents_display_position_check
        CHECK (display_position IN ('sidebar', 'dashboard', 'hidden')) NOT VALID,
    ADD CONSTRAINT user_agents_user_rating_check CHECK (user_rating BETWEEN 0 AND 5) NOT VALID,
    ADD CONSTRAINT user_agents_quality_score_check CHECK (quality_score BETWEEN 0 AND 5) NOT VALID,
    ADD CONSTRAINT user_agents_status_check
        CHECK (status IN ('active', 'paused', 'archived', 'disabled')) NOT VALID,
    ADD CONSTRAINT user_agents_source_check
        CHECK (source IN ('store', 'custom', 'imported', 'template', 'recommended')) NOT VALID;

ALTER TABLE public.user_agents VALIDATE CONSTRAINT user_agents_display_position_check;
ALTER TABLE public.user_agents VALIDATE CONSTRAINT user_agents_user_rating_check;
ALTER TABLE public.user_agents VALIDATE CONSTRAINT user_agents_quality_score_check;
ALTER TABLE public.user_agents VALIDATE CONSTRAINT user_agents_status_check;
ALTER TABLE public.user_agents VALIDATE CONSTRAINT user_agents_source_check;

-- Give back what an earlier way down to 2.0.0 kept aside: a chunk moves in one transaction, so that a kill loses nothing
-- and no writer waits long for a row.
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
