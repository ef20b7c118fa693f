-- squawk-ignore-file ban-drop-table -- a rollback removes what the upgrade created
-- Rows are kept for the next upgrade, readable by the owner only.
DO $down$
BEGIN
    -- No batch may commit between the check for rows and the drop.
    LOCK TABLE public.usage_event_keys IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM public.usage_event_keys) THEN
        DROP POLICY usage_event_keys_service_role ON public.usage_event_keys;
        DROP POLICY usage_event_keys_ingest ON public.usage_event_keys;
        REVOKE ALL ON public.usage_event_keys FROM PUBLIC, anon, authenticated, service_role, usage_ingest;
        ALTER TABLE public.usage_event_keys RENAME TO usage_event_keys_kept_4_1_0;
    ELSE
        DROP TABLE public.usage_event_keys;
    END IF;
END
$down$;
