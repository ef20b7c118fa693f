SELECT * FROM (VALUES
    ('replica identity', 'agent_usage_hour_marks', 'full')
) AS expected (kind, object, definition)
