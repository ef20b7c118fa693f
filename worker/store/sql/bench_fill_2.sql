-- The pairs with what 2.0.0 knows of them.
INSERT INTO public.user_agents (user_id, agent_id, added_at, last_used_at, usage_count, metadata)
SELECT user_id, agent_id, added_at, last_used_at, uses, jsonb_build_object('plan', mod(chance, 53))
  FROM public.bench_pairs
