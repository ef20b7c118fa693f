SELECT * FROM (VALUES
    ('column', 'usage_corrections.actor_role', 'text not null default COALESCE(NULLIF(current_setting(''role''::text, true), ''none''::text), (SESSION_USER)::text)'),
    ('column', 'usage_corrections.agent_id', 'uuid not null'),
    ('column', 'usage_corrections.changes', 'jsonb not null'),
    ('column', 'usage_corrections.corrected_at', 'timestamp with time zone not null default now()'),
    ('column', 'usage_corrections.event_id', 'uuid not null'),
    ('column', 'usage_corrections.id', 'bigint not null'),
    ('column', 'usage_corrections.occurred_at', 'timestamp with time zone not null'),
    ('column', 'usage_corrections.reason', 'text'),
    ('column', 'usage_corrections.user_id', 'uuid not null'),
    ('constraint', 'usage_corrections.usage_corrections_pkey', 'PRIMARY KEY (event_id, id)'),
    ('constraint', 'usage_corrections.usage_corrections_reason_check', 'CHECK ((char_length(reason) <= 500))'),
    ('grant', 'table usage_corrections to service_role', 'select'),
    ('index', 'usage_corrections_pkey', 'CREATE UNIQUE INDEX usage_corrections_pkey ON public.usage_corrections USING btree (event_id, id)'),
    ('policy', 'usage_corrections.usage_corrections_service_role', 'select to service_role using true'),
    ('sequence', 'usage_corrections_id_seq', 'bigint'),
    ('table', 'usage_corrections', 'table, row-level security on'),
    ('table', 'usage_corrections_kept_5_1_0', NULL)
) AS expected (kind, object, definition)
