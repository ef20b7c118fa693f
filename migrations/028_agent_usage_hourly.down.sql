-- squawk-ignore-file ban-drop-function -- a rollback removes what the upgrade created
-- squawk-ignore-file ban-drop-table -- as for functions
-- Hours and days that the ledger has dropped cannot be computed again, so their rows are kept for the next upgrade, readable
-- by the owner only. Marks are not: the upgrade marks every hour of the ledger.

-- As in 4.3.0. First, so that no call names a table that is gone.
CREATE OR REPLACE FUNCTION public.track_agent_usage(
    p_user_id uuid,
    p_agent_id uuid,
    p_success boolean DEFAULT true,
    p_tokens_used bigint DEFAULT 0,
    p_cost_usd numeric DEFAULT 0,
    p_response_time_ms integer DEFAULT NULL
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    v_caller pg_catalog.name := coalesce(nullif(current_setting('role', true), 'none'), session_user);
    v_day pg_catalog.date := (now() AT TIME ZONE 'UTC')::date;
    v_successes integer := CASE WHEN coalesce(p_success, true) THEN 1 ELSE 0 END;
    v_samples integer := CASE WHEN p_response_time_ms IS NULL THEN 0 ELSE 1 END;
BEGIN
    IF p_user_id IS DISTINCT FROM auth.uid() AND v_caller <> current_user
       AND NOT pg_has_role(v_caller, 'service_role', 'MEMBER') THEN
        RAISE insufficient_privilege USING MESSAGE = 'track_agent_usage: this is not your user';
    END IF;
    -- The bounds of an event. They exclude negative values and NaN, which is greater than any number.
    IF least(p_tokens_used, p_cost_usd, p_response_time_ms) < 0 OR p_tokens_used > 1000000000000 OR p_cost_usd > 1000000
       OR p_response_time_ms > 86400000 THEN
        RAISE numeric_value_out_of_range USING MESSAGE = 'track_agent_usage: tokens, cost or time out of bounds';
    END IF;
    PERFORM public.usage_events_ensure_day(v_day);
    INSERT INTO public.usage_events (event_id, occurred_at, type, user_id, agent_id, messages, input_tokens,
                                     output_tokens, tokens, cost_usd, response_time_ms, success, cost_source)
    VALUES (gen_random_uuid(), now(), 'usage', p_user_id, p_agent_id, 1, 0, 0, coalesce(p_tokens_used, 0), p_cost_usd,
            p_response_time_ms, v_successes = 1, CASE WHEN p_cost_usd IS NULL THEN 'unknown' ELSE 'caller' END);
    INSERT INTO public.user_agents AS ua (
        user_id, agent_id, usage_count, message_count, success_count, error_count, total_tokens_used, total_cost_usd,
        response_time_total_ms, response_time_samples, avg_response_time_ms, first_used_at, last_used_at
    )
    VALUES (
        p_user_id, p_agent_id, 1, 1, v_successes, 1 - v_successes, coalesce(p_tokens_used, 0), coalesce(p_cost_usd, 0),
        coalesce(p_response_time_ms, 0), v_samples, p_response_time_ms, now(), now()
    )
    ON CONFLICT (user_id, agent_id) DO UPDATE SET
        usage_count = coalesce(ua.usage_count, 0) + 1,
        message_count = coalesce(ua.message_count, 0) + 1,
        success_count = coalesce(ua.success_count, 0) + excluded.success_count,
        error_count = coalesce(ua.error_count, 0) + excluded.error_count,
        total_tokens_used = coalesce(ua.total_tokens_used, 0) + excluded.total_tokens_used,
        total_cost_usd = coalesce(ua.total_cost_usd, 0) + excluded.total_cost_usd,
        (response_time_total_ms, response_time_samples, avg_response_time_ms) = (
            SELECT s.total, s.samples, round(s.total::numeric / nullif(s.samples, 0))
              FROM (
                SELECT coalesce(ua.response_time_total_ms, 0) + excluded.response_time_total_ms
                       + coalesce(ua.avg_response_time_ms, 0) * o.samples AS total,
                       coalesce(ua.response_time_samples, 0) + excluded.response_time_samples + o.samples AS samples
                  FROM (
                    -- A row from before 4.0.0 without its opening balance: the average stands for past latencies.
                    SELECT CASE
                        WHEN coalesce(ua.response_time_samples, 0) = 0 AND ua.avg_response_time_ms IS NOT NULL AND NOT EXISTS (
                            SELECT FROM public.usage_daily d
                             WHERE (d.user_id, d.agent_id) = (p_user_id, p_agent_id))
                        THEN coalesce(ua.usage_count, 0)::bigint ELSE 0 END AS samples
                  ) o
              ) s
        ),
        first_used_at = least(ua.first_used_at, excluded.first_used_at),
        last_used_at = greatest(ua.last_used_at, excluded.last_used_at)
    -- IS NOT TRUE: NULL counts as 0.
    WHERE (
        ua.usage_count = 2147483647
        OR greatest(ua.message_count, ua.success_count, ua.error_count, ua.response_time_samples) = 9223372036854775807
        OR ua.total_tokens_used > 9223372036854775807 - excluded.total_tokens_used
        OR ua.response_time_total_ms > 9223372036854775807 - excluded.response_time_total_ms
        OR ua.total_cost_usd + excluded.total_cost_usd >= 10000000000
    ) IS NOT TRUE;
    IF NOT FOUND THEN
        RAISE numeric_value_out_of_range USING
            MESSAGE = 'track_agent_usage: usage_count or another counter of this pair would exceed its type';
    END IF;
    INSERT INTO public.usage_daily AS d (
        user_id, agent_id, day, usage_count, message_count, success_count, error_count, total_tokens_used,
        total_cost_usd, response_time_total_ms, response_time_samples
    )
    VALUES (
        p_user_id, p_agent_id, v_day, 1, 1, v_successes, 1 - v_successes, coalesce(p_tokens_used, 0), coalesce(p_cost_usd, 0),
        coalesce(p_response_time_ms, 0), v_samples
    )
    ON CONFLICT (user_id, agent_id, day) DO UPDATE SET
        usage_count = d.usage_count + 1,
        message_count = d.message_count + 1,
        success_count = d.success_count + excluded.success_count,
        error_count = d.error_count + excluded.error_count,
        total_tokens_used = d.total_tokens_used + excluded.total_tokens_used,
        total_cost_usd = d.total_cost_usd + excluded.total_cost_usd,
        response_time_total_ms = d.response_time_total_ms + excluded.response_time_total_ms,
        response_time_samples = d.response_time_samples + excluded.response_time_samples;
END
$body$;

DO $down$
DECLARE
    v_table text;
    v_is_kept boolean;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['agent_usage_hourly', 'agent_usage_daily'] LOOP
        -- No refresh may commit between the check for rows and the drop.
        EXECUTE format('LOCK TABLE public.%I IN ACCESS EXCLUSIVE MODE', v_table);
        EXECUTE format('SELECT EXISTS (SELECT FROM public.%I)', v_table) INTO v_is_kept;
        IF v_is_kept THEN
            EXECUTE format('DROP POLICY %I ON public.%I', v_table || '_service_role', v_table);
            EXECUTE format('REVOKE ALL ON public.%I FROM PUBLIC, anon, authenticated, service_role, usage_ingest', v_table);
            EXECUTE format('ALTER TABLE public.%I RENAME TO %I', v_table, v_table || '_kept_5_0_0');
        ELSE
            EXECUTE format('DROP TABLE public.%I', v_table);
        END IF;
    END LOOP;
END
$down$;
DROP TABLE public.agent_usage_hour_marks;
DROP FUNCTION public.agent_usage_hourly_ensure_month(date);
DROP FUNCTION public.usage_rolled_up_days(date[]);
DROP FUNCTION public.usage_latency_bucket(integer);
DROP FUNCTION public.usage_latency_value(smallint);
