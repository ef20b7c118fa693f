-- What this migration adds or changes.
SELECT * FROM (VALUES
    ('column', 'usage_task_runs.finished_at', 'timestamp with time zone not null'),
    ('column', 'usage_task_runs.report', 'jsonb not null'),
    ('column', 'usage_task_runs.seconds', 'double precision not null'),
    ('column', 'usage_task_runs.task', 'text not null'),
    ('constraint', 'usage_task_runs.usage_task_runs_pkey', 'PRIMARY KEY (task)'),
    ('grant', 'table usage_task_runs to service_role', 'select'),
    ('index', 'usage_task_runs_pkey', 'CREATE UNIQUE INDEX usage_task_runs_pkey ON public.usage_task_runs USING btree (task)'),
    ('policy', 'usage_task_runs.usage_task_runs_service_role', 'select to service_role using true'),
    ('table', 'usage_task_runs', 'table, row-level security on, fillfactor=50'),
    ('table', 'usage_task_runs_kept_4_0_0', NULL)
) AS expected (kind, object, definition)
