SELECT * FROM (VALUES
    ('function', 'accept_share(p_share_id uuid)', 'returns boolean, plpgsql, volatile, security definer, search_path=pg_catalog, pg_temp, body 63530797d933eaf023aec90f6da6f9ab'),
    ('function', 'decline_share(p_share_id uuid)', 'returns boolean, plpgsql, volatile, security definer, search_path=pg_catalog, pg_temp, body 3244b13866a6db014187823caf45a254'),
    ('function', 'edit_shared_agent(p_user_agent_id uuid, p_changes jsonb)', 'returns boolean, plpgsql, volatile, security definer, search_path=pg_catalog, pg_temp, body 78052ff4e3b4dc28b42f0d1277b4f656'),
    ('function', 'user_agents_edit_allowed(p_new jsonb)', 'returns boolean, plpgsql, volatile, security invoker, search_path=pg_catalog, pg_temp, body 16159087e958452ab4a41bacf17ed78b'),
    ('function', 'user_agents_editable_columns()', 'returns text[], sql, immutable, security invoker, body a16ceef3559972e3d5243384d711870b'),
    ('function', 'user_agents_received()', 'returns SETOF public.user_agents, plpgsql, stable, security definer, search_path=pg_catalog, pg_temp, body bf441e78114dbe9e3ed5f47826290052'),
    ('grant', 'function accept_share(p_share_id uuid) to authenticated', 'execute'),
    ('grant', 'function decline_share(p_share_id uuid) to authenticated', 'execute'),
    ('grant', 'function edit_shared_agent(p_user_agent_id uuid, p_changes jsonb) to authenticated', 'execute'),
    ('grant', 'function user_agents_edit_allowed(p_new jsonb) to authenticated', 'execute'),
    ('grant', 'function user_agents_editable_columns() to authenticated', 'execute'),
    ('grant', 'function user_agents_received() to authenticated', 'execute'),
    ('grant', 'table user_agents_shared_with_me to authenticated', 'select'),
    ('policy', 'user_agents.Editors can update shared agents', 'update to authenticated using ((deleted_at IS NULL) AND (id = ANY (( SELECT public.user_agent_ids_shared_with_me(ARRAY[''edit''::text]) AS user_agent_ids_shared_with_me)::uuid[])) AND (COALESCE(notes, ''''::text) = ''''::text) AND (COALESCE(quick_notes, ''''::text) = ''''::text)) check public.user_agents_edit_allowed(to_jsonb(user_agents.*))'),
    ('view', 'user_agents_shared_with_me', 'view, security_invoker, query 6479147e8dff2cba44d2e4e85c5d73a1')
) AS expected (kind, object, definition)
