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

DO $comments$
BEGIN
    COMMENT ON TABLE public.usage_task_runs IS 'The last run of each periodic task, for status, alarms and the age of figures; written by the task.';
    COMMENT ON COLUMN public.usage_task_runs.task IS 'Name of the task.';
    COMMENT ON COLUMN public.usage_task_runs.finished_at IS 'When the last run ended.';
    COMMENT ON COLUMN public.usage_task_runs.seconds IS 'Duration of the last run in seconds.';
    COMMENT ON COLUMN public.usage_task_runs.report IS 'JSON object with what the last run did.';
    COMMENT ON INDEX public.usage_task_runs_pkey IS 'Finds the last run of a task.';
    COMMENT ON POLICY usage_task_runs_service_role ON public.usage_task_runs IS 'A service_role without BYPASSRLS reads every run.';
END
$comments$;
