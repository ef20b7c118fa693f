-- version: 4.0.0
-- transaction: off
-- lock_timeout: 100ms
-- squawk-disable-assume-in-transaction
--
-- Whatever the counters contain beyond their days becomes the opening balance, on day 1970-01-01 of the roll-up.

-- A call that began before track_agent_usage was replaced still bypasses the ledger, and a row that it adds is not visible
-- yet: wait until every transaction of that time has ended. No client waits for this statement meanwhile. Afterwards
-- nobody needs the right to write counters: clients write their own columns, and the counters are the sums of the days. A
-- statement that was allowed before may still be running, so wait again.
DO $older$
DECLARE
    v_older text[];
    v_deadline timestamptz;
    v_columns text := 'id, user_id, agent_id, original_agent_id, is_user_copy, added_at, is_active, metadata,
        created_at, updated_at, custom_name, custom_description, custom_avatar, custom_color, custom_system_prompt,
        custom_temperature, custom_max_tokens, is_favorite, is_pinned, folder, tags, sort_order, display_position,
        user_rating, last_rating_at, archived_at, deleted_at, is_enabled, is_visible, status, settings, preferences,
        ui_config, source_details, share_settings, notification_settings, notifications_enabled, notes, quick_notes,
        source, is_shared, shared_with, team_id';
BEGIN
    FOR turn IN 1..2 LOOP
        SELECT array_agg(l.virtualxid) INTO v_older
          FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
         WHERE l.locktype = 'virtualxid' AND l.granted AND l.pid <> pg_backend_pid()
           -- Autovacuum has no user.
           AND a.datname = current_database() AND a.usesysid IS NOT NULL;
        COMMIT;
        v_deadline := clock_timestamp() + interval '5 seconds';
        WHILE EXISTS (
            SELECT FROM pg_catalog.pg_locks WHERE locktype = 'virtualxid' AND granted AND virtualxid = ANY (v_older)
        ) LOOP
            IF clock_timestamp() > v_deadline THEN
                RAISE lock_not_available
                    USING MESSAGE = 'transactions older than the new track_agent_usage are still open';
            END IF;
            COMMIT;
            PERFORM pg_sleep(0.01);
        END LOOP;
        IF turn = 1 THEN
            REVOKE INSERT, UPDATE ON public.user_agents FROM authenticated;
            EXECUTE format('GRANT INSERT (%1$s), UPDATE (%1$s) ON public.user_agents TO authenticated', v_columns);
            COMMIT;
        END IF;
    END LOOP;
END
$older$;

-- Of past latencies only the average is known; where an event came first, track_agent_usage has already added it, so
-- that total / samples is the average at any moment. Works in chunks of locked rows. A row that a client has locked is
-- skipped and locked alone at the end, so that nobody waits for a chunk that waits itself. Repeated, it finds no
-- difference and adds nothing.
DO $balance$
DECLARE
    v_reached uuid := '00000000-0000-0000-0000-000000000000';
    -- Chunks begin after this id, so it is locked alone, too.
    v_skipped uuid[] := ARRAY[v_reached];
    v_taken integer := 0;
    v_chunk uuid[];
    v_locked uuid[];
BEGIN
    LOOP
        v_chunk := ARRAY(SELECT id FROM public.user_agents WHERE id > v_reached ORDER BY id LIMIT 500);
        IF cardinality(v_chunk) > 0 THEN
            v_reached := v_chunk[cardinality(v_chunk)];
            -- Skip rows that were never used and have no days: their first event will write both places.
            v_chunk := ARRAY(
                SELECT ua.id FROM public.user_agents ua
                 WHERE ua.id = ANY (v_chunk)
                   AND ((usage_count, message_count, conversation_count, success_count, error_count, total_tokens_used,
                         total_cost_usd) <> (0, 0, 0, 0, 0, 0, 0)
                        OR EXISTS (SELECT FROM public.usage_daily d
                                    WHERE (d.user_id, d.agent_id) = (ua.user_id, ua.agent_id))));
            v_locked := ARRAY(
                SELECT id FROM public.user_agents
                 WHERE id = ANY (v_chunk) FOR NO KEY UPDATE SKIP LOCKED);
            v_skipped := v_skipped || ARRAY(SELECT unnest(v_chunk) EXCEPT SELECT unnest(v_locked));
        ELSE
            EXIT WHEN v_taken = cardinality(v_skipped);
            v_taken := v_taken + 1;
            SET LOCAL lock_timeout = '10s';
            v_locked := ARRAY(SELECT id FROM public.user_agents WHERE id = v_skipped[v_taken] FOR NO KEY UPDATE);
        END IF;

        UPDATE public.user_agents
           SET response_time_total_ms = avg_response_time_ms::bigint * usage_count, response_time_samples = usage_count
         WHERE id = ANY (v_locked) AND coalesce(response_time_samples, 0) = 0 AND avg_response_time_ms IS NOT NULL
           AND usage_count > 0;
        -- A call of 3.0.0's function that ended after one of 4.0.0's on the same row has left no sample: each such use gets
        -- the past average.
        UPDATE public.user_agents AS ua
           SET response_time_total_ms = ua.response_time_total_ms + past.missing_ms,
               response_time_samples = ua.response_time_samples + past.missing,
               avg_response_time_ms = round(
                   (ua.response_time_total_ms + past.missing_ms) / (ua.response_time_samples + past.missing))
          FROM (
            SELECT opening.id, uses - samples AS missing, round(total_ms / nullif(samples, 0) * (uses - samples)) AS missing_ms
              FROM (
                SELECT balanced.id,
                       coalesce(balanced.usage_count, 0) - sum(days.usage_count) AS uses,
                       coalesce(balanced.response_time_samples, 0) - sum(days.response_time_samples) AS samples,
                       coalesce(balanced.response_time_total_ms, 0) - sum(days.response_time_total_ms) AS total_ms
                  FROM public.user_agents balanced JOIN public.usage_daily days USING (user_id, agent_id)
                 WHERE balanced.id = ANY (v_locked)
                 GROUP BY balanced.id
              ) opening
             WHERE samples > 0 AND uses > samples
          ) past
         WHERE ua.id = past.id;
        -- The same, on a row whose columns were restored already.
        UPDATE public.user_agents
           SET avg_response_time_ms = round(response_time_total_ms::numeric / response_time_samples)
         WHERE id = ANY (v_locked) AND response_time_samples > 0
           AND avg_response_time_ms IS DISTINCT FROM round(response_time_total_ms::numeric / response_time_samples);
        -- A statement of its own: it sees all that was committed before the rows were locked.
        INSERT INTO public.usage_daily AS d (
            user_id, agent_id, day, usage_count, message_count, conversation_count, success_count, error_count,
            total_tokens_used, total_cost_usd, response_time_total_ms, response_time_samples
        )
        SELECT ua.user_id, ua.agent_id, date '1970-01-01', ua.usage_count - s.usage_count,
               ua.message_count - s.message_count, ua.conversation_count - s.conversation_count,
               ua.success_count - s.success_count, ua.error_count - s.error_count,
               ua.total_tokens_used - s.total_tokens_used, ua.total_cost_usd - s.total_cost_usd,
               ua.response_time_total_ms - s.response_time_total_ms, ua.response_time_samples - s.response_time_samples
          FROM (
            SELECT id, user_id, agent_id,
                   coalesce(usage_count, 0) AS usage_count,
                   coalesce(message_count, 0) AS message_count,
                   coalesce(conversation_count, 0) AS conversation_count,
                   coalesce(success_count, 0) AS success_count,
                   coalesce(error_count, 0) AS error_count,
                   coalesce(total_tokens_used, 0) AS total_tokens_used,
                   coalesce(total_cost_usd, 0) AS total_cost_usd,
                   coalesce(response_time_total_ms, 0) AS response_time_total_ms,
                   coalesce(response_time_samples, 0) AS response_time_samples
              FROM public.user_agents
          ) ua
         CROSS JOIN LATERAL (
            SELECT coalesce(sum(days.usage_count), 0) AS usage_count,
                   coalesce(sum(days.message_count), 0) AS message_count,
                   coalesce(sum(days.conversation_count), 0) AS conversation_count,
                   coalesce(sum(days.success_count), 0) AS success_count,
                   coalesce(sum(days.error_count), 0) AS error_count,
                   coalesce(sum(days.total_tokens_used), 0) AS total_tokens_used,
                   coalesce(sum(days.total_cost_usd), 0) AS total_cost_usd,
                   coalesce(sum(days.response_time_total_ms), 0) AS response_time_total_ms,
                   coalesce(sum(days.response_time_samples), 0) AS response_time_samples
              FROM public.usage_daily days
             WHERE days.user_id = ua.user_id AND days.agent_id = ua.agent_id
         ) s
         WHERE ua.id = ANY (v_locked)
           AND (ua.usage_count, ua.message_count, ua.conversation_count, ua.success_count, ua.error_count,
                ua.total_tokens_used, ua.total_cost_usd, ua.response_time_total_ms, ua.response_time_samples)
               <> (s.usage_count, s.message_count, s.conversation_count, s.success_count, s.error_count,
                   s.total_tokens_used, s.total_cost_usd, s.response_time_total_ms, s.response_time_samples)
        ON CONFLICT (user_id, agent_id, day) DO UPDATE SET
            usage_count = d.usage_count + excluded.usage_count,
            message_count = d.message_count + excluded.message_count,
            conversation_count = d.conversation_count + excluded.conversation_count,
            success_count = d.success_count + excluded.success_count,
            error_count = d.error_count + excluded.error_count,
            total_tokens_used = d.total_tokens_used + excluded.total_tokens_used,
            total_cost_usd = d.total_cost_usd + excluded.total_cost_usd,
            response_time_total_ms = d.response_time_total_ms + excluded.response_time_total_ms,
            response_time_samples = d.response_time_samples + excluded.response_time_samples;
        COMMIT;
    END LOOP;
END
$balance$;
