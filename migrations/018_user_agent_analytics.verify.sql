-- What this migration adds or changes.
SELECT * FROM (VALUES
    ('column', 'user_agent_analytics_state.mark', 'text not null default ''''::text'),
    ('column', 'user_agent_analytics_state.only_row', 'boolean not null default true'),
    ('column', 'user_agent_analytics_state.refreshed_at', 'timestamp with time zone not null default now()'),
    ('constraint', 'user_agent_analytics_state.user_agent_analytics_state_only_row_check', 'CHECK (only_row)'),
    ('constraint', 'user_agent_analytics_state.user_agent_analytics_state_pkey', 'PRIMARY KEY (only_row)'),
    ('grant', 'table user_agent_analytics to service_role', 'select'),
    ('grant', 'table user_agent_analytics_own to authenticated', 'select'),
    ('grant', 'table user_agent_analytics_state to service_role', 'select'),
    ('index', 'idx_user_agent_analytics_usage_count', 'CREATE INDEX idx_user_agent_analytics_usage_count ON public.user_agent_analytics USING btree (usage_count)'),
    ('index', 'user_agent_analytics_key', 'CREATE UNIQUE INDEX user_agent_analytics_key ON public.user_agent_analytics USING btree (user_id, agent_id)'),
    ('index', 'user_agent_analytics_state_pkey', 'CREATE UNIQUE INDEX user_agent_analytics_state_pkey ON public.user_agent_analytics_state USING btree (only_row)'),
    ('policy', 'user_agent_analytics_state.user_agent_analytics_state_service_role', 'select to service_role using true'),
    ('table', 'user_agent_analytics_state', 'table, row-level security on'),
    ('view', 'user_agent_analytics', 'materialized view, autovacuum_vacuum_cost_limit=2000, query 806e3c62e2bc6ea7cc737f34ca10bcbb'),
    ('view', 'user_agent_analytics_own', 'view, security_barrier, query 4ebde92b7863206907745e8cdbd913c7')
) AS expected (kind, object, definition)
