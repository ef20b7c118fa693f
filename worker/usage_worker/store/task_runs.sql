-- Periodic tasks: one process at a time, and what each run did.

-- name: try_task_lock
-- A number of our own in front, since the application may use advisory locks, too.
SELECT pg_try_advisory_xact_lock(1970370406, hashtext(%(task)s))

-- name: record_run
-- One row a task: its last run.
INSERT INTO public.usage_task_runs (task, finished_at, seconds, report)
VALUES (%(task)s, now(), %(seconds)s, %(report)s)
ON CONFLICT (task) DO UPDATE SET
    finished_at = excluded.finished_at, seconds = excluded.seconds, report = excluded.report

-- name: last_runs
-- What every task did last.
SELECT task, finished_at, seconds, report FROM public.usage_task_runs ORDER BY task
