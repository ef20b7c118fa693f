-- The rollback text of the migration history, as written there; of its last statement, the two columns that it names.
-- Drop new objects
DROP VIEW IF EXISTS user_agents_with_details;
DROP VIEW IF EXISTS user_favorite_agents;
DROP VIEW IF EXISTS user_popular_agents;
DROP VIEW IF EXISTS user_recent_agents;

DROP FUNCTION IF EXISTS add_user_agent;
DROP FUNCTION IF EXISTS track_agent_usage;
DROP FUNCTION IF EXISTS soft_delete_user_agent;
DROP FUNCTION IF EXISTS restore_user_agent;
DROP FUNCTION IF EXISTS calculate_agent_quality_score;

-- Remove columns (keep only v2.0.0 columns)
ALTER TABLE user_agents
    DROP COLUMN IF EXISTS custom_name,
    DROP COLUMN IF EXISTS custom_description;
