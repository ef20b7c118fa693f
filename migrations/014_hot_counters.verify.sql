-- What this migration adds or changes.
SELECT * FROM (VALUES
    ('index', 'idx_user_agents_last_used', 'CREATE INDEX idx_user_agents_last_used ON public.user_agents USING brin (last_used_at)'),
    ('index', 'idx_user_agents_quality', 'CREATE INDEX idx_user_agents_quality ON public.user_agents USING brin (quality_score)'),
    ('index', 'idx_user_agents_usage_count', 'CREATE INDEX idx_user_agents_usage_count ON public.user_agents USING brin (usage_count)'),
    ('index', 'idx_user_agents_user_status_last_used', 'CREATE INDEX idx_user_agents_user_status_last_used ON public.user_agents USING brin (user_id, status, last_used_at)'),
    ('table', 'user_agents', 'table, row-level security on, autovacuum_vacuum_cost_limit=2000, fillfactor=50'),
    ('index', 'idx_user_agents_last_used_3', NULL),
    ('index', 'idx_user_agents_last_used_4', NULL),
    ('index', 'idx_user_agents_quality_3', NULL),
    ('index', 'idx_user_agents_quality_4', NULL),
    ('index', 'idx_user_agents_usage_count_3', NULL),
    ('index', 'idx_user_agents_usage_count_4', NULL),
    ('index', 'idx_user_agents_user_status_last_used_3', NULL),
    ('index', 'idx_user_agents_user_status_last_used_4', NULL)
) AS expected (kind, object, definition)
