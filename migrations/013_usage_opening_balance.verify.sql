SELECT * FROM (VALUES
    ('grant', 'table user_agents to authenticated', 'delete, select')
) AS expected (kind, object, definition)

UNION ALL
-- What users write; the counters are not among these columns.
SELECT 'grant', format('column user_agents.%s to authenticated', name), 'insert, update'
FROM unnest(ARRAY[
    'id', 'user_id', 'agent_id', 'original_agent_id', 'is_user_copy', 'added_at', 'is_active', 'metadata',
    'created_at', 'updated_at', 'custom_name', 'custom_description', 'custom_avatar', 'custom_color',
    'custom_system_prompt', 'custom_temperature', 'custom_max_tokens', 'is_favorite', 'is_pinned', 'folder', 'tags',
    'sort_order', 'display_position', 'user_rating', 'last_rating_at', 'archived_at', 'deleted_at', 'is_enabled',
    'is_visible', 'status', 'settings', 'preferences', 'ui_config', 'source_details', 'share_settings',
    'notification_settings', 'notifications_enabled', 'notes', 'quick_notes', 'source', 'is_shared', 'shared_with',
    'team_id'
]) AS name
