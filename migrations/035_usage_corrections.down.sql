-- squawk-ignore-file ban-drop-table -- a rollback removes what the upgrade created
-- The former values of events stand nowhere else, so rows are kept for the next upgrade, readable by the owner only.
DO $down$
BEGIN
    -- No correction may commit between the check for rows and the drop.
    LOCK TABLE public.usage_corrections IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM public.usage_corrections) THEN
        DROP POLICY usage_corrections_service_role ON public.usage_corrections;
        REVOKE ALL ON public.usage_corrections FROM PUBLIC, anon, authenticated, service_role, usage_ingest;
        ALTER TABLE public.usage_corrections RENAME TO usage_corrections_kept_5_1_0;
    ELSE
        DROP TABLE public.usage_corrections;
    END IF;
END
$down$;
