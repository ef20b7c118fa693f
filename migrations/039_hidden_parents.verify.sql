SELECT * FROM (VALUES
    ('function', 'usage_find_parents(p_users uuid[], p_agents uuid[])', 'returns TABLE(user_id uuid, agent_id uuid, user_exists boolean, agent_exists boolean), plpgsql, stable, security definer, search_path=pg_catalog, pg_temp, body 2afe0d09e54d72dfbfd2e1ae2faf1e89')
) AS expected (kind, object, definition)
