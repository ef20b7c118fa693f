SELECT * FROM (VALUES
    ('column', 'usage_forgotten.forgotten_at', 'timestamp with time zone not null default now()'),
    ('column', 'usage_forgotten.hash', 'bytea not null'),
    ('column', 'usage_forgotten.key_id', 'bytea not null'),
    ('constraint', 'usage_forgotten.usage_forgotten_hash_check', 'CHECK ((octet_length(hash) = 32))'),
    ('constraint', 'usage_forgotten.usage_forgotten_key_id_check', 'CHECK ((octet_length(key_id) = 8))'),
    ('constraint', 'usage_forgotten.usage_forgotten_pkey', 'PRIMARY KEY (hash)'),
    ('grant', 'table usage_forgotten to service_role', 'select'),
    ('grant', 'table usage_forgotten to usage_ingest', 'select'),
    ('index', 'usage_forgotten_pkey', 'CREATE UNIQUE INDEX usage_forgotten_pkey ON public.usage_forgotten USING btree (hash)'),
    ('policy', 'usage_forgotten.usage_forgotten_ingest', 'select to usage_ingest using true'),
    ('policy', 'usage_forgotten.usage_forgotten_service_role', 'select to service_role using true'),
    ('table', 'usage_forgotten', 'table, row-level security on'),
    ('table', 'usage_forgotten_kept_5_1_0', NULL)
) AS expected (kind, object, definition)
