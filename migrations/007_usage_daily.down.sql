-- Rows are kept for the next upgrade, readable by the owner only.
DO $down$
BEGIN
    IF EXISTS (SELECT FROM public.usage_daily) THEN
        DROP POLICY usage_daily_service_role ON public.usage_daily;
        REVOKE ALL ON public.usage_daily FROM PUBLIC, anon, authenticated, service_role;
        ALTER TABLE public.usage_daily RENAME TO usage_daily_kept_4_0_0;
    ELSE
        DROP TABLE public.usage_daily;
    END IF;
END
$down$;
