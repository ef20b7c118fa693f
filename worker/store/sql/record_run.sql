-- One row a task: its last run.
INSERT INTO public.usage_maintenance (task, finished_at, seconds, report)
VALUES (%(task)s, now(), %(seconds)s, %(report)s)
ON CONFLICT (task) DO UPDATE SET
    finished_at = excluded.finished_at, seconds = excluded.seconds, report = excluded.report
