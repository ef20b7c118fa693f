-- squawk-ignore-file ban-drop-table -- a rollback removes what the upgrade created
-- Hashes are kept for the next upgrade, readable by the owner only. Older workers do not know them.
DO $down$
BEGIN
    -- Nobody may be erased between the check for rows and the drop.
    LOCK TABLE public.usage_forgotten IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM public.usage_forgotten) THEN
        DROP POLICY usage_forgotten_service_role ON public.usage_forgotten;
        DROP POLICY usage_forgotten_ingest ON public.usage_forgotten;
        REVOKE ALL ON public.usage_forgotten FROM PUBLIC, anon, authenticated, service_role, usage_ingest;
        ALTER TABLE public.usage_forgotten RENAME TO usage_forgotten_kept_5_1_0;
    ELSE
        DROP TABLE public.usage_forgotten;
    END IF;
END
$down$;
