SELECT * FROM (VALUES
    ('column', 'user_agents.last_conversation_at', 'timestamp with time zone'),
    ('column', 'user_agents.response_time_samples', 'bigint default 0'),
    ('column', 'user_agents.response_time_total_ms', 'bigint default 0'),
    ('function', 'track_agent_usage(p_user_id uuid, p_agent_id uuid, p_success boolean, p_tokens_used bigint, p_cost_usd numeric, p_response_time_ms integer)', 'returns void, plpgsql, volatile, security definer, search_path=pg_catalog, pg_temp, body 1872c89f4c7ba344e18f0f8b98058c3b'),
    ('function', 'user_agents_keep_4_0_0()', NULL),
    ('table', 'user_agents_kept_4_0_0', NULL)
) AS expected (kind, object, definition)
