-- squawk-ignore-file ban-drop-function -- a rollback removes what the upgrade created
-- squawk-ignore-file ban-drop-table -- as for functions
-- Hours and days that the ledger has dropped cannot be computed again, so their rows are kept for the next upgrade, readable
-- by the owner only. Marks are not: the upgrade marks every hour of the ledger.

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
