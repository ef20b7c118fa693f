-- version: 4.0.0
-- lock_timeout: 100ms

-- Kept for the next upgrade, readable by the owner only.
DO $table$
BEGIN
    IF EXISTS (SELECT FROM public.usage_maintenance) THEN
        REVOKE ALL ON public.usage_maintenance FROM service_role;
        ALTER TABLE public.usage_maintenance RENAME TO usage_maintenance_kept_4_0_0;
    ELSE
        DROP TABLE public.usage_maintenance;
    END IF;
END
$table$;
