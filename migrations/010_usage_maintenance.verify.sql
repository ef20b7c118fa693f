-- What this migration adds or changes.
SELECT * FROM (VALUES
    ('column', 'usage_maintenance.finished_at', 'timestamp with time zone not null'),
    ('column', 'usage_maintenance.report', 'jsonb not null'),
    ('column', 'usage_maintenance.seconds', 'double precision not null'),
    ('column', 'usage_maintenance.task', 'text not null'),
    ('constraint', 'usage_maintenance.usage_maintenance_pkey', 'PRIMARY KEY (task)'),
    ('grant', 'table usage_maintenance to service_role', 'select'),
    ('index', 'usage_maintenance_pkey', 'CREATE UNIQUE INDEX usage_maintenance_pkey ON public.usage_maintenance USING btree (task)'),
    ('policy', 'usage_maintenance.usage_maintenance_service_role', 'select to service_role using true'),
    ('table', 'usage_maintenance', 'table, row-level security on, fillfactor=50'),
    ('table', 'usage_maintenance_kept_4_0_0', NULL)
) AS expected (kind, object, definition)
