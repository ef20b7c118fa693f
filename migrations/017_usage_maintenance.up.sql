-- version: 4.0.0
-- lock_timeout: 100ms
--
-- The last run of each periodic task, for status, alarms and the age of figures.
DO $table$
BEGIN
    -- A rollback from 4.0.0 kept it aside.
    IF to_regclass('public.usage_task_runs_kept_4_0_0') IS NOT NULL THEN
        ALTER TABLE public.usage_task_runs_kept_4_0_0 RENAME TO usage_task_runs;
        RETURN;
    END IF;
    CREATE TABLE public.usage_task_runs (
        task text PRIMARY KEY,
        finished_at timestamptz NOT NULL,
        seconds double precision NOT NULL,
        report jsonb NOT NULL
    ) WITH (fillfactor = 50);
    ALTER TABLE public.usage_task_runs ENABLE ROW LEVEL SECURITY;
    -- For a service_role that could not be given BYPASSRLS.
    CREATE POLICY usage_task_runs_service_role ON public.usage_task_runs FOR SELECT TO service_role USING (true);
END
$table$;
REVOKE ALL ON public.usage_task_runs FROM PUBLIC, anon, authenticated, service_role;
GRANT SELECT ON public.usage_task_runs TO service_role;
