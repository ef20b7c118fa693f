-- version: 4.0.0
-- lock_timeout: 100ms

-- Kept for the next upgrade, readable by the owner only.
DO $table$
BEGIN
    IF EXISTS (SELECT FROM public.usage_task_runs) THEN
        REVOKE ALL ON public.usage_task_runs FROM service_role;
        ALTER TABLE public.usage_task_runs RENAME TO usage_task_runs_kept_4_0_0;
    ELSE
        DROP TABLE public.usage_task_runs;
    END IF;
END
$table$;
