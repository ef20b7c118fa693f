-- The pairs with what 3.0.0 knows of them: organised, customised, one in seventeen deleted softly, some shared.
INSERT INTO public.user_agents (
    user_id, agent_id, added_at, last_used_at, first_used_at, usage_count, message_count, conversation_count,
    success_count, error_count, total_tokens_used, total_cost_usd, avg_response_time_ms, custom_name,
    custom_system_prompt, notes, is_favorite, is_pinned, folder, tags, sort_order, status, source, user_rating,
    settings, preferences, metadata, is_shared, shared_with, team_id, deleted_at
)
SELECT user_id, agent_id, added_at, last_used_at, CASE WHEN uses > 0 THEN added_at END, uses, 2 * uses, (uses + 2) / 3,
       uses - uses / 50, uses / 50, 900 * uses, 0.0031 * uses, CASE WHEN uses > 0 THEN 400 + 10 * mod(chance, 97) END,
       CASE WHEN mod(chance, 2) = 0 THEN 'my agent ' || chance END,
       CASE WHEN mod(chance, 59) < 9 THEN repeat('Answer briefly and name your sources. ', 8) END,
       CASE WHEN mod(chance, 43) < 4 THEN repeat('to be tried with the new model; ', 4) END,
       mod(chance, 11) = 0, mod(chance, 29) = 0,
       CASE WHEN mod(chance, 5) < 3 THEN 'folder ' || mod(chance, 7) END,
       CASE mod(chance, 3)
           WHEN 1 THEN ARRAY['tag ' || mod(chance, 19)]
           WHEN 2 THEN ARRAY['tag ' || mod(chance, 19), 'topic ' || mod(chance, 23)]
       END,
       mod(chance, 61), CASE WHEN mod(chance, 41) = 0 THEN 'paused' ELSE 'active' END, 'store',
       CASE WHEN mod(chance, 47) < 5 THEN 1 + mod(chance, 47) END,
       jsonb_build_object('model', 'model ' || mod(chance, 53), 'stream', mod(chance, 2) = 0),
       jsonb_build_object('language', mod(chance, 67)), jsonb_build_object('plan', mod(chance, 53)),
       mod(chance, 31) = 0, CASE WHEN mod(chance, 31) = 0 THEN ARRAY[md5('user ' || mod(chance, 1009))::uuid] END,
       CASE WHEN mod(chance, 31) = 0 THEN md5('team ' || mod(chance, 71))::uuid END,
       CASE WHEN mod(chance, 17) = 0 THEN now() END
  FROM public.bench_pairs
