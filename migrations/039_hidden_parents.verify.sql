SELECT * FROM (VALUES
    ('function', 'usage_find_parents(p_users uuid[], p_agents uuid[])', 'returns TABLE(user_id uuid, agent_id uuid, user_exists boolean, agent_exists boolean), plpgsql, stable, security definer, search_path=pg_catalog, pg_temp, body e75b5bb77143479a3d1d17e27c9c79f8')
) AS expected (kind, object, definition)
