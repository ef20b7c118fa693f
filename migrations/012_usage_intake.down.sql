-- Rows are kept for the next upgrade, readable by the owner only.
DO $down$
BEGIN
    -- No batch may commit between the check for rows and the drop. Workers wait until usage_entries exists again.
    LOCK TABLE public.usage_entries, public.usage_intake IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM public.usage_entries) THEN
        DROP POLICY usage_entries_service_role ON public.usage_entries;
        REVOKE ALL ON public.usage_entries FROM PUBLIC, anon, authenticated, service_role;
        ALTER TABLE public.usage_entries RENAME TO usage_entries_kept_4_0_0;
    ELSE
        DROP TABLE public.usage_entries;
    END IF;
    IF EXISTS (SELECT FROM public.usage_intake) THEN
        DROP POLICY usage_intake_service_role ON public.usage_intake;
        REVOKE ALL ON public.usage_intake FROM PUBLIC, anon, authenticated, service_role;
        ALTER TABLE public.usage_intake RENAME TO usage_intake_kept_4_0_0;
    ELSE
        DROP TABLE public.usage_intake;
    END IF;
END
$down$;
