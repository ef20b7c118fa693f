-- A row of the owner in every relation. A new relation needs a row here.
-- Parameters are bound by the client, since this is more than one statement.
INSERT INTO auth.users (id, email)
VALUES (%(owner)s, 'owner'), (%(recipient)s, 'recipient'), (%(member)s, 'member'), (%(stranger)s, 'stranger');
INSERT INTO public.user_profiles (id, display_name) VALUES (%(owner)s, 'owner');
INSERT INTO public.agents (id, name, created_by) VALUES (%(agent)s, 'helper', %(owner)s);
-- The only row that is not the owner's: it makes another user a member of the team.
INSERT INTO public.user_role_assignments (user_id, team_id) VALUES (%(member)s, %(team)s);
-- This row is in all four views.
INSERT INTO public.user_agents (id, user_id, agent_id, is_favorite, usage_count, last_used_at)
VALUES (%(row)s, %(owner)s, %(agent)s, true, 1, now());
-- Neither an expired share nor columns without is_shared grant access.
INSERT INTO public.user_agent_shares (user_agent_id, shared_with_user, expires_at)
VALUES (%(row)s, %(recipient)s, now() - interval '1 day');
UPDATE public.user_agents SET shared_with = ARRAY[%(recipient)s::uuid], team_id = %(team)s;
INSERT INTO public.usage_daily (user_id, agent_id, day, usage_count) VALUES (%(owner)s, %(agent)s, '2026-01-31', 1);
INSERT INTO public.usage_retired_daily (user_id, agent_id, day, usage_count) VALUES (%(owner)s, %(agent)s, '2026-01-31', 1);
INSERT INTO public.user_agent_conversations (user_id, agent_id, conversation_id)
VALUES (%(owner)s, %(agent)s, gen_random_uuid());
-- One row in every partition.
INSERT INTO public.usage_events (
    event_id, occurred_at, type, user_id, agent_id, messages, input_tokens, output_tokens, tokens, success,
    cached_input_tokens, cache_write_tokens, reasoning_tokens, provider, cost_source
)
SELECT gen_random_uuid(), to_date(right(p.relname, 8), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC', 'usage', %(owner)s,
       %(agent)s, 1, 0, 0, 0, true, 0, 0, 0, 'provider', 'unknown'
  FROM pg_inherits JOIN pg_class AS p ON p.oid = inhrelid
 WHERE inhparent = 'public.usage_events'::regclass AND p.relkind = 'r';
INSERT INTO public.user_agent_history (user_agent_id, user_id, agent_id, action, changes, created_at)
SELECT %(row)s, %(owner)s, %(agent)s, 'update', '{}',
       to_date(right(p.relname, 6), 'YYYYMM')::timestamp AT TIME ZONE 'UTC'
  FROM pg_inherits JOIN pg_class AS p ON p.oid = inhrelid
 WHERE inhparent = 'public.user_agent_history'::regclass AND p.relkind = 'r';
INSERT INTO public.agent_usage_hourly (
    hour, agent_id, model, provider, usage_count, message_count, success_count, error_count, input_tokens, output_tokens,
    cached_input_tokens, cache_write_tokens, reasoning_tokens, total_tokens_used, cost_samples, response_time_total_ms,
    response_time_samples, latency_buckets, latency_counts, users
)
SELECT to_date(right(p.relname, 6), 'YYYYMM')::timestamp AT TIME ZONE 'UTC', %(agent)s, 'model', 'provider', 1, 1, 1, 0, 0, 0,
       0, 0, 0, 0, 0, 0, 0, '{}', '{}', 1
  FROM pg_inherits JOIN pg_class AS p ON p.oid = inhrelid
 WHERE inhparent = 'public.agent_usage_hourly'::regclass AND p.relkind = 'r';
-- Its columns are those of the hour, with a day in its place.
INSERT INTO public.agent_usage_daily
SELECT d.* FROM public.agent_usage_hourly AS h,
       jsonb_populate_record(NULL::public.agent_usage_daily, to_jsonb(h) || jsonb_build_object('day', h.hour::date)) AS d
 LIMIT 1;
INSERT INTO public.agent_usage_hour_marks (hour) VALUES (now());
INSERT INTO public.agent_anomalies (agent_id, kind, started_at, observed, expected, scale, z, samples, baseline, is_alert)
VALUES (%(agent)s, 'cost', now(), 2, 1, 1, 7, 12, '{}', false);
INSERT INTO public.agent_embedding_models (model, dimension, state, is_default) VALUES ('model', 1, 'ready', true);
INSERT INTO public.agent_embeddings (agent_id, model, dimension, embedding, content_hash)
VALUES (%(agent)s, 'model', 1, '{1}', sha256(''));
INSERT INTO public.agent_embedding_failures (agent_id, model, content_hash, next_try_at, error)
VALUES (%(agent)s, 'model', sha256(''), now(), 'test');
INSERT INTO public.agent_search_quality (agent_id, difference) VALUES (%(agent)s, 0);
INSERT INTO public.usage_task_runs (task, finished_at, seconds, report) VALUES ('test', now(), 1, '{}');
INSERT INTO public.usage_entries (key) VALUES (gen_random_uuid());
INSERT INTO public.usage_event_keys (key, occurred_at) VALUES (gen_random_uuid(), now());
INSERT INTO public.usage_external_ids (kind, id, external_id) VALUES ('user', %(owner)s, 'owner 42');
INSERT INTO public.usage_id_namespace (namespace) VALUES (gen_random_uuid());
INSERT INTO public.usage_forgotten (hash, key_id) VALUES (sha256(''), '\x0000000000000000');
INSERT INTO public.usage_corrections (event_id, occurred_at, user_id, agent_id, changes)
VALUES (gen_random_uuid(), now(), %(owner)s, %(agent)s, '{}');
INSERT INTO public.usage_intake (day, stream) VALUES ('2026-01-31', 'usage:events:{0}');
INSERT INTO public.usage_dead_letters (entry_key, position, stream, entry_id, reason, payload)
VALUES (gen_random_uuid(), 0, 'usage:events:{0}', '1-0', 'test', '{}');
INSERT INTO public.agents (id, name, created_by) VALUES (%(other_agent)s, 'second', %(owner)s);
INSERT INTO public.agent_graph_members (user_id, agent_ids) VALUES (%(owner)s, ARRAY[%(agent)s]::uuid[]);
INSERT INTO public.agent_pair_counts (agent_a, agent_b, users) VALUES (%(agent)s, %(agent)s, 1);
INSERT INTO public.agent_graph_state (min_users) VALUES (10);
INSERT INTO public.agent_relationships (source_id, target_id, kind, weight, users)
VALUES (%(agent)s, %(other_agent)s, 'used_with', 0.5, 10);
INSERT INTO public.agent_popularity (agent_id, users) VALUES (%(agent)s, 10);
REFRESH MATERIALIZED VIEW public.user_agent_analytics;
