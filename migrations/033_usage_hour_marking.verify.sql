SELECT * FROM (VALUES
    ('function', 'track_agent_usage(p_user_id uuid, p_agent_id uuid, p_success boolean, p_tokens_used bigint, p_cost_usd numeric, p_response_time_ms integer)', 'returns void, plpgsql, volatile, security definer, search_path=pg_catalog, pg_temp, body 3f6f556a74482b4cd33f0e1f9e6af8bc')
) AS expected (kind, object, definition)
