SELECT * FROM (VALUES
    ('function', 'accept_share(p_share_id uuid)', 'returns boolean, plpgsql, volatile, security definer, search_path=pg_catalog, pg_temp, body 74fe5dd2fe6633c6996b5dc11253831f'),
    ('function', 'decline_share(p_share_id uuid)', 'returns boolean, plpgsql, volatile, security definer, search_path=pg_catalog, pg_temp, body 5193f05ae2306e96ff52d68ff4fb7c3b'),
    ('function', 'edit_shared_agent(p_user_agent_id uuid, p_changes jsonb)', 'returns boolean, plpgsql, volatile, security definer, search_path=pg_catalog, pg_temp, body 6d9f758a74e04fbf0e98bf1d86468e4d'),
    ('function', 'user_agent_shares_answer(p_share_id uuid, p_accepts boolean)', 'returns boolean, plpgsql, volatile, security invoker, search_path=pg_catalog, pg_temp, body 63f0bbefb58fb57ff2e605ec9d5c00ff'),
    ('function', 'user_agents_edit_allowed(p_new jsonb)', 'returns boolean, plpgsql, volatile, security invoker, search_path=pg_catalog, pg_temp, body 16159087e958452ab4a41bacf17ed78b'),
    ('function', 'user_agents_editable_columns()', 'returns text[], sql, immutable, security invoker, body a16ceef3559972e3d5243384d711870b'),
    ('function', 'user_agents_received()', 'returns SETOF public.user_agents, plpgsql, stable, security definer, search_path=pg_catalog, pg_temp, body bdb9fe671ed43e36417c1d31fdf2d46b'),
    ('grant', 'function accept_share(p_share_id uuid) to authenticated', 'execute'),
    ('grant', 'function decline_share(p_share_id uuid) to authenticated', 'execute'),
    ('grant', 'function edit_shared_agent(p_user_agent_id uuid, p_changes jsonb) to authenticated', 'execute'),
    ('grant', 'function user_agents_edit_allowed(p_new jsonb) to authenticated', 'execute'),
    ('grant', 'function user_agents_editable_columns() to authenticated', 'execute'),
    ('grant', 'function user_agents_received() to authenticated', 'execute'),
    ('grant', 'table user_agents_shared_with_me to authenticated', 'select'),
    ('policy', 'user_agents.Editors can update shared agents', 'update to authenticated using ((deleted_at IS NULL) AND (id = ANY (( SELECT public.user_agent_ids_shared_with_me(ARRAY[''edit''::text]) AS user_agent_ids_shared_with_me)::uuid[])) AND (COALESCE(notes, ''''::text) = ''''::text) AND (COALESCE(quick_notes, ''''::text) = ''''::text)) check public.user_agents_edit_allowed(to_jsonb(user_agents.*))'),
    ('view', 'user_agents_shared_with_me', 'view, security_invoker, query ca3c1a91402529698dddec8d94c9f556')
) AS expected (kind, object, definition)
