-- Nothing is expected of a table that the platform provides.
SELECT kind, object, definition FROM (VALUES
    ('column', 'user_role_assignments.role', 'text not null default ''member''::text', 'public.user_role_assignments'),
    ('column', 'user_role_assignments.team_id', 'uuid not null', 'public.user_role_assignments'),
    ('column', 'user_role_assignments.user_id', 'uuid not null', 'public.user_role_assignments'),
    ('constraint', 'user_role_assignments.user_role_assignments_pkey', 'PRIMARY KEY (user_id, team_id)', 'public.user_role_assignments'),
    ('constraint', 'user_role_assignments.user_role_assignments_user_id_fkey', 'FOREIGN KEY (user_id) REFERENCES auth.users(id) ON DELETE CASCADE', 'public.user_role_assignments'),
    ('function', 'add_user_agent(p_user_id uuid, p_agent_id uuid, p_source text, p_folder text)', 'returns public.user_agents, plpgsql, volatile, security invoker, search_path=pg_catalog, pg_temp, body 17fb346b63e7512e61ccb4f9851eef27', NULL),
    ('function', 'calculate_agent_quality_score(p_user_rating numeric, p_usage_count bigint, p_success_count bigint, p_error_count bigint)', 'returns numeric, sql, immutable, security invoker, body ee3bb5add1998500b349c041ede7256a', NULL),
    ('function', 'restore_user_agent(p_user_id uuid, p_agent_id uuid)', 'returns boolean, plpgsql, volatile, security invoker, search_path=pg_catalog, pg_temp, body a0dd192cb933bbe35c27f113d0a17f30', NULL),
    ('function', 'soft_delete_user_agent(p_user_id uuid, p_agent_id uuid)', 'returns boolean, plpgsql, volatile, security invoker, search_path=pg_catalog, pg_temp, body d7fa00946d9ea61fcb7aedc6146cda00', NULL),
    ('function', 'track_agent_usage(p_user_id uuid, p_agent_id uuid, p_success boolean, p_tokens_used bigint, p_cost_usd numeric, p_response_time_ms integer)', 'returns void, sql, volatile, security invoker, search_path=pg_catalog, pg_temp, body 43bae776e39d08f4e9ac88a89f75e238', NULL),
    ('function', 'user_agents_set_quality()', 'returns trigger, plpgsql, volatile, security invoker, search_path=pg_catalog, pg_temp, body 845fb41679e35f0dfc66f3d4312a2b11', NULL),
    ('function', 'user_agents_set_updated_at()', 'returns trigger, plpgsql, volatile, security invoker, search_path=pg_catalog, pg_temp, body cabacfaf24f2e283763d258ca4872f2e', NULL),
    ('grant', 'function add_user_agent(p_user_id uuid, p_agent_id uuid, p_source text, p_folder text) to authenticated', 'execute', NULL),
    ('grant', 'function add_user_agent(p_user_id uuid, p_agent_id uuid, p_source text, p_folder text) to service_role', 'execute', NULL),
    ('grant', 'function calculate_agent_quality_score(p_user_rating numeric, p_usage_count bigint, p_success_count bigint, p_error_count bigint) to authenticated', 'execute', NULL),
    ('grant', 'function calculate_agent_quality_score(p_user_rating numeric, p_usage_count bigint, p_success_count bigint, p_error_count bigint) to service_role', 'execute', NULL),
    ('grant', 'function restore_user_agent(p_user_id uuid, p_agent_id uuid) to authenticated', 'execute', NULL),
    ('grant', 'function restore_user_agent(p_user_id uuid, p_agent_id uuid) to service_role', 'execute', NULL),
    ('grant', 'function soft_delete_user_agent(p_user_id uuid, p_agent_id uuid) to authenticated', 'execute', NULL),
    ('grant', 'function soft_delete_user_agent(p_user_id uuid, p_agent_id uuid) to service_role', 'execute', NULL),
    ('grant', 'function track_agent_usage(p_user_id uuid, p_agent_id uuid, p_success boolean, p_tokens_used bigint, p_cost_usd numeric, p_response_time_ms integer) to authenticated', 'execute', NULL),
    ('grant', 'function track_agent_usage(p_user_id uuid, p_agent_id uuid, p_success boolean, p_tokens_used bigint, p_cost_usd numeric, p_response_time_ms integer) to service_role', 'execute', NULL),
    ('grant', 'table user_agents to authenticated', 'delete, insert, select, update', NULL),
    ('grant', 'table user_agents_with_details to authenticated', 'select', NULL),
    ('grant', 'table user_agents_with_details to service_role', 'select', NULL),
    ('grant', 'table user_favorite_agents to authenticated', 'select', NULL),
    ('grant', 'table user_favorite_agents to service_role', 'select', NULL),
    ('grant', 'table user_popular_agents to authenticated', 'select', NULL),
    ('grant', 'table user_popular_agents to service_role', 'select', NULL),
    ('grant', 'table user_recent_agents to authenticated', 'select', NULL),
    ('grant', 'table user_recent_agents to service_role', 'select', NULL),
    ('grant', 'table user_role_assignments to authenticated', 'select', 'public.user_role_assignments'),
    ('grant', 'table user_role_assignments to service_role', 'delete, insert, select, update', 'public.user_role_assignments'),
    ('index', 'user_role_assignments_pkey', 'CREATE UNIQUE INDEX user_role_assignments_pkey ON public.user_role_assignments USING btree (user_id, team_id)', 'public.user_role_assignments'),
    ('policy', 'user_agents.Users can delete their own agent relationships', 'delete to authenticated using (user_id = ( SELECT auth.uid() AS uid))', NULL),
    ('policy', 'user_agents.Users can insert their own agent relationships', 'insert to authenticated check (user_id = ( SELECT auth.uid() AS uid))', NULL),
    ('policy', 'user_agents.Users can view their own agent relationships', 'select to authenticated using (user_id = ( SELECT auth.uid() AS uid))', NULL),
    ('policy', 'user_agents.Team members can view shared agents', 'select to authenticated using (is_shared AND (deleted_at IS NULL) AND ((( SELECT auth.uid() AS uid) = ANY (shared_with)) OR (team_id IN ( SELECT membership.team_id FROM public.user_role_assignments membership WHERE (membership.user_id = ( SELECT auth.uid() AS uid))))))', NULL),
    ('policy', 'user_agents.Users can update their own agent relationships', 'update to authenticated using (user_id = ( SELECT auth.uid() AS uid)) check (user_id = ( SELECT auth.uid() AS uid))', NULL),
    ('policy', 'user_agents.Service role has full access', 'all to service_role using true check true', NULL),
    ('policy', 'user_agents.Service role full access', NULL, NULL),
    ('policy', 'user_agents.Users can insert their own', NULL, NULL),
    ('policy', 'user_agents.Users can update their own', NULL, NULL),
    ('policy', 'user_agents.Users can view their own', NULL, NULL),
    ('policy', 'user_role_assignments.user_role_assignments_select_own', 'select to authenticated using (user_id = ( SELECT auth.uid() AS uid))', 'public.user_role_assignments'),
    ('policy', 'user_role_assignments.user_role_assignments_service_role', 'all to service_role using true check true', 'public.user_role_assignments'),
    ('table', 'user_role_assignments', 'table, row-level security on', 'public.user_role_assignments'),
    ('table', 'user_role_assignments_kept_3_0_0', NULL, 'public.user_role_assignments'),
    ('trigger', 'user_agents.user_agents_auto_quality', 'CREATE TRIGGER user_agents_auto_quality BEFORE INSERT OR UPDATE OF user_rating, usage_count, success_count, error_count ON public.user_agents FOR EACH ROW WHEN ((new.quality_score IS DISTINCT FROM round((((0.5 * COALESCE(new.user_rating, 3.0)) + CASE WHEN ((COALESCE(new.success_count, (0)::bigint) + COALESCE(new.error_count, (0)::bigint)) > 0) THEN ((1.5 * (COALESCE(new.success_count, (0)::bigint))::numeric) / ((COALESCE(new.success_count, (0)::bigint) + COALESCE(new.error_count, (0)::bigint)))::numeric) ELSE (0)::numeric END) + CASE WHEN (new.usage_count > 100) THEN 1.0 WHEN (new.usage_count > 50) THEN 0.9 WHEN (new.usage_count > 20) THEN 0.8 WHEN (new.usage_count > 10) THEN 0.7 WHEN (new.usage_count > 5) THEN 0.6 WHEN (new.usage_count > 0) THEN 0.5 ELSE (0)::numeric END), 2))) EXECUTE FUNCTION public.user_agents_set_quality()', NULL),
    ('trigger', 'user_agents.user_agents_updated_at', 'CREATE TRIGGER user_agents_updated_at BEFORE UPDATE ON public.user_agents FOR EACH ROW WHEN ((new.updated_at IS DISTINCT FROM now())) EXECUTE FUNCTION public.user_agents_set_updated_at()', NULL)
) AS expected (kind, object, definition, adoptable)
WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass(adoptable) AND relkind IN ('r', 'p', 'f', 'v', 'm'))
    OR split_part(adoptable, '.', 2) IN (SELECT name FROM public.usage_migration_objects WHERE kind = 'table')

UNION ALL
-- The four views have the same columns and differ in their end; what a platform's agents lacks is NULL.
SELECT 'view', shown.name, 'view, security_invoker, query ' || md5(
    'SELECTid,user_id,agent_id,original_agent_id,is_user_copy,added_at,last_used_at,usage_count,is_active,metadata,'
    'created_at,updated_at,custom_name,custom_description,custom_avatar,custom_color,custom_system_prompt,'
    'custom_temperature,custom_max_tokens,is_favorite,is_pinned,folder,tags,sort_order,display_position,message_count,'
    'conversation_count,success_count,error_count,user_rating,quality_score,last_rating_at,avg_response_time_ms,'
    'total_tokens_used,total_cost_usd,first_used_at,archived_at,deleted_at,is_enabled,is_visible,status,settings,'
    'preferences,ui_config,source_details,share_settings,notification_settings,notifications_enabled,'
    'last_conversation_id,notes,quick_notes,source,is_shared,shared_with,team_id,'
    || (
        SELECT string_agg(coalesce(a.attname, 'NULL::text') || 'AS' || wanted.alias, ',' ORDER BY wanted.place)
        FROM (VALUES
            (1, 'name', 'agent_name'), (2, 'description', 'agent_description'), (3, 'title', 'agent_display_name'),
            (4, 'tagline', 'agent_tagline'), (5, 'avatar_url', 'agent_avatar'), (6, 'status', 'agent_status')
        ) AS wanted (place, name, alias)
        LEFT JOIN pg_catalog.pg_attribute AS a
            ON a.attrelid = to_regclass('public.agents') AND a.attname = wanted.name AND NOT a.attisdropped
    )
    || ',CASEWHEN(last_used_atISNULL)THEN''never_used''::textWHEN(last_used_at>=(now()-''24:00:00''::interval))THEN'
    '''active''::textWHEN(last_used_at>=(now()-''7days''::interval))THEN''recent''::textWHEN(last_used_at>='
    '(now()-''30days''::interval))THEN''occasional''::textELSE''inactive''::textENDASusage_status,round(((100.0*'
    '(COALESCE(success_count,(0)::bigint))::numeric)/(NULLIF((COALESCE(success_count,(0)::bigint)+'
    'COALESCE(error_count,(0)::bigint)),0))::numeric),2)ASsuccess_rate_percentFROM(user_agentsuaLEFTJOINagentsaON('
    '(id=agent_id)))WHERE'
    || shown.rest
)
FROM (VALUES
    ('user_agents_with_details', '(deleted_atISNULL);'),
    ('user_favorite_agents', '((deleted_atISNULL)ANDis_favorite)ORDERBYCOALESCE(sort_order,0),added_atDESC;'),
    ('user_popular_agents', '((deleted_atISNULL)AND(usage_count>0))ORDERBYusage_countDESC,last_used_atDESC;'),
    ('user_recent_agents', '((deleted_atISNULL)AND(last_used_atISNOTNULL))ORDERBYlast_used_atDESC;')
) AS shown (name, rest)
