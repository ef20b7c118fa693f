-- squawk-ignore-file ban-drop-function -- a rollback removes what the upgrade created

-- Rows are kept for the next upgrade, readable by the owner only.
DO $down$
BEGIN
    IF EXISTS (SELECT FROM public.usage_events) THEN
        DROP POLICY usage_events_service_role ON public.usage_events;
        REVOKE ALL ON public.usage_events FROM PUBLIC, anon, authenticated, service_role;
        ALTER TABLE public.usage_events RENAME TO usage_events_kept_4_0_0;
    ELSE
        DROP TABLE public.usage_events;
    END IF;
END
$down$;

DROP FUNCTION public.usage_events_ensure_day(date);
