SELECT * FROM (VALUES
    ('column', 'usage_events.cost_source', 'text'),
    ('function', 'track_agent_usage(p_user_id uuid, p_agent_id uuid, p_success boolean, p_tokens_used bigint, p_cost_usd numeric, p_response_time_ms integer)', 'returns void, plpgsql, volatile, security definer, search_path=pg_catalog, pg_temp, body 9fbf834505f90f0c5245c7392d011181'),
    ('column', 'usage_events.cost_source_kept_4_3_0', NULL)
) AS expected (kind, object, definition)
