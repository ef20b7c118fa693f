SELECT * FROM (VALUES
    ('column', 'usage_event_keys.key', 'uuid not null'),
    ('column', 'usage_event_keys.occurred_at', 'timestamp with time zone not null'),
    ('constraint', 'usage_event_keys.usage_event_keys_pkey', 'PRIMARY KEY (key)'),
    ('grant', 'table usage_event_keys to service_role', 'select'),
    ('grant', 'table usage_event_keys to usage_ingest', 'insert, select'),
    ('index', 'idx_usage_event_keys_occurred_at', 'CREATE INDEX idx_usage_event_keys_occurred_at ON public.usage_event_keys USING btree (occurred_at)'),
    ('index', 'usage_event_keys_pkey', 'CREATE UNIQUE INDEX usage_event_keys_pkey ON public.usage_event_keys USING btree (key)'),
    ('policy', 'usage_event_keys.usage_event_keys_ingest', 'all to usage_ingest using true'),
    ('policy', 'usage_event_keys.usage_event_keys_service_role', 'select to service_role using true'),
    ('table', 'usage_event_keys', 'table, row-level security on, autovacuum_vacuum_cost_limit=2000, autovacuum_vacuum_scale_factor=0.05'),
    ('table', 'usage_event_keys_kept_4_1_0', NULL)
) AS expected (kind, object, definition)
