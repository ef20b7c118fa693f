-- Somebody's 3.0.0 by the history's lists, on top of history_2_0_0.sql: every new column is nullable and some are narrower
-- than ours, indexes have other definitions or other names, policies are written in another way, some views, functions and
-- triggers are missing.
ALTER TABLE user_agents
    ADD custom_name text, ADD custom_description text, ADD custom_avatar text, ADD custom_color varchar(20),
    ADD custom_system_prompt text, ADD custom_temperature numeric(3, 2), ADD custom_max_tokens integer,
    ADD is_favorite boolean DEFAULT false, ADD is_pinned boolean DEFAULT false, ADD folder text, ADD tags text[],
    ADD sort_order integer DEFAULT 0, ADD display_position text,
    ADD message_count integer DEFAULT 0, ADD conversation_count integer DEFAULT 0, ADD success_count integer DEFAULT 0,
    ADD error_count integer DEFAULT 0, ADD user_rating numeric(3, 2), ADD quality_score numeric(3, 2),
    ADD last_rating_at timestamptz, ADD avg_response_time_ms integer, ADD total_tokens_used bigint DEFAULT 0,
    ADD total_cost_usd numeric(10, 4) DEFAULT 0, ADD first_used_at timestamptz, ADD archived_at timestamptz,
    ADD deleted_at timestamptz, ADD is_enabled boolean DEFAULT true, ADD is_visible boolean DEFAULT true,
    ADD status text, ADD settings jsonb, ADD preferences jsonb, ADD ui_config jsonb, ADD source_details jsonb,
    ADD share_settings jsonb, ADD notification_settings jsonb, ADD notifications_enabled boolean,
    ADD last_conversation_id uuid, ADD notes text, ADD quick_notes text, ADD source text, ADD is_shared boolean,
    ADD shared_with uuid[], ADD team_id uuid;
CREATE INDEX idx_user_agents_user_active ON user_agents (user_id, is_active);
CREATE INDEX idx_user_agents_tags ON user_agents USING gin (tags);
CREATE INDEX idx_user_agents_status ON user_agents (status);
CREATE INDEX user_agents_team_index ON user_agents (team_id) WHERE team_id IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX theirs ON user_agents (custom_color);
DROP POLICY "Users can view their own" ON user_agents;
CREATE POLICY "Users can view their own agent relationships" ON user_agents FOR SELECT USING (auth.uid() = user_id);
CREATE POLICY "Users may remove what is theirs" ON user_agents FOR DELETE USING (user_id = auth.uid());
CREATE POLICY "Support reads" ON user_agents FOR SELECT TO service_role USING (status = 'active');
CREATE FUNCTION update_stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at := now(); RETURN NEW; END';
CREATE TRIGGER user_agents_updated_at BEFORE UPDATE OF custom_color ON user_agents
    FOR EACH ROW EXECUTE FUNCTION update_stamp();
CREATE FUNCTION calculate_agent_quality_score(rating numeric, usage integer, success integer, errors integer)
RETURNS numeric LANGUAGE sql AS 'SELECT 1.0';
CREATE VIEW user_agents_with_details AS SELECT ua.*, a.name AS agent_name FROM user_agents ua JOIN agents a ON a.id = agent_id;
CREATE VIEW user_favorite_agents AS SELECT * FROM user_agents_with_details WHERE is_favorite;
UPDATE user_agents SET message_count = 9, success_count = 6, error_count = 1, total_tokens_used = 1000,
    total_cost_usd = 1.25, avg_response_time_ms = 80, notes = 'kept', tags = '{a,b}';
