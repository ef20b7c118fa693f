SELECT * FROM (VALUES
    ('function', 'search_agents(p_query real[], p_query_text text, p_k integer, p_filters jsonb, p_model text, p_quality_weight double precision)', 'returns TABLE(rank integer, agent_id uuid, name text, score double precision, similarity double precision, matched_by text[], is_close boolean), plpgsql, stable, security invoker, search_path=pg_catalog, pg_temp, body a71c20df34780ce75837be17311af018')
) AS expected (kind, object, definition)
