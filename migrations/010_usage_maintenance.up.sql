-- version: 4.0.0
-- lock_timeout: 100ms
--
-- What the periodic tasks did last: one row a task, for status, alarms and whoever asks how old a figure is.
DO $table$
BEGIN
    -- A way back from 4.0.0 kept it aside.
    IF to_regclass('public.usage_maintenance_kept_4_0_0') IS NOT NULL THEN
        ALTER TABLE public.usage_maintenance_kept_4_0_0 RENAME TO usage_maintenance;
        RETURN;
    END IF;
    CREATE TABLE public.usage_maintenance (
        task text PRIMARY KEY,
        finished_at timestamptz NOT NULL,
        seconds double precision NOT NULL,
        report jsonb NOT NULL
    ) WITH (fillfactor = 50);
    ALTER TABLE public.usage_maintenance ENABLE ROW LEVEL SECURITY;
    -- For a service_role that could not be given BYPASSRLS.
    CREATE POLICY usage_maintenance_service_role ON public.usage_maintenance FOR SELECT TO service_role USING (true);
END
$table$;
REVOKE ALL ON public.usage_maintenance FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.usage_maintenance TO service_role;
