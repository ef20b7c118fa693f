-- The benchmark: preparing tables, the compared paths, users' own queries.

-- name: machine
-- What the figures of a benchmark depend on.
SELECT version() AS version, pg_current_wal_lsn() - '0/0'::pg_lsn AS wal_bytes,
       coalesce((SELECT n_tup_upd FROM pg_stat_user_tables WHERE relid = 'public.user_agents'::regclass), 0) AS updates,
       coalesce((SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'public.user_agents'::regclass), 0) AS hot_updates

-- name: checkpoint
-- Pages that were filled are on disk before anything is measured.
CHECKPOINT

-- name: reset_counts
-- Back to a table that has counted nothing, with the room in its pages as VACUUM leaves it.
TRUNCATE public.usage_events, public.usage_daily, public.usage_retired_daily, public.user_agent_conversations,
    public.usage_entries, public.usage_intake, public.usage_dead_letters, public.user_agents

-- name: seed_pairs
-- Every user with every agent: the table that a benchmark counts into.
INSERT INTO public.user_agents (user_id, agent_id) SELECT u.id, a.id FROM auth.users u CROSS JOIN public.agents a

-- name: vacuum_pairs
-- Statistics for the planner, and summaries for the BRIN indexes: without those they would cost updates nothing.
VACUUM (ANALYZE) public.user_agents

-- name: copy_ledger_binary
-- The ceiling of the benchmark.
COPY public.usage_events (event_id, occurred_at, type, user_id, agent_id, messages, input_tokens, output_tokens, tokens,
    cost_usd, response_time_ms, success, conversation_id, model, rating) FROM STDIN (FORMAT BINARY)

-- name: track_agent_usage
-- The schema's own door for one event at a time.
SELECT public.track_agent_usage(%(user_id)s, %(agent_id)s, %(success)s, %(tokens)s, %(cost)s, %(response_time)s)

-- name: bench_reset
-- Nobody has an agent; a table beside user_agents will hold what a benchmark fills it with.
TRUNCATE public.agents, auth.users CASCADE;
DROP TABLE IF EXISTS public.bench_pairs;
CREATE UNLOGGED TABLE public.bench_pairs (
    user_id uuid, agent_id uuid, chance integer, added_at timestamptz, last_used_at timestamptz, uses integer
)

-- name: bench_fill_2
-- The pairs with what 2.0.0 knows of them.
INSERT INTO public.user_agents (user_id, agent_id, added_at, last_used_at, usage_count, metadata)
SELECT user_id, agent_id, added_at, last_used_at, uses, jsonb_build_object('plan', mod(chance, 53))
  FROM public.bench_pairs

-- name: bench_fill_3
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

-- name: bench_pairs
-- Who has which agent: every fiftieth user about 200, the others up to 33; one pair in four was never used. In random
-- order, as a table grows by use: a user's rows lie in different pages. `chance` decides by its remainders what a row
-- holds; they are those of different primes, so that one property says nothing about another.
WITH pairs AS (
    INSERT INTO public.bench_pairs (user_id, agent_id, chance, added_at, last_used_at, uses)
    SELECT md5('user ' || owner)::uuid, md5('agent ' || mod(owner + n, 500))::uuid, chance, added_at,
           CASE WHEN uses > 0 THEN added_at + mod(chance, 101) / 101.0 * (now() - added_at) END, uses
      FROM generate_series(1, %(rows)s::integer / 20) AS owner
     CROSS JOIN LATERAL generate_series(1, CASE WHEN mod(owner, 50) = 0 THEN 200 ELSE 1 + mod(owner, 33) END) AS n
     CROSS JOIN LATERAL (SELECT hashint8(1000::bigint * owner + n) & 2147483647 AS chance) AS drawn
     CROSS JOIN LATERAL (
        SELECT now() - mod(chance, 31536000) * interval '1 second' AS added_at,
               CASE WHEN mod(chance, 13) >= 3 THEN 2000 / (1 + mod(chance, 97)) ELSE 0 END AS uses
    ) AS derived
     ORDER BY chance, owner, n
     LIMIT %(rows)s
    RETURNING 1
)
SELECT count(*) AS rows FROM pairs

-- name: bench_population
-- The users and agents of the pairs, for the foreign keys' sake.
WITH users AS (
    INSERT INTO auth.users (id) SELECT DISTINCT user_id FROM public.bench_pairs RETURNING id
), agents AS (
    INSERT INTO public.agents (id, name) SELECT DISTINCT agent_id, 'agent ' || agent_id FROM public.bench_pairs
    RETURNING id
)
SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM agents) AS agents

-- name: bench_users
-- Whom a benchmark asks for: first those with the most agents, then as many of all the others.
SELECT user_id
  FROM (
    SELECT user_id, row_number() OVER (ORDER BY count(*) DESC, user_id) AS place
      FROM public.user_agents GROUP BY user_id
) AS owners
 ORDER BY place > %(half)s, user_id
 LIMIT 2 * %(half)s

-- name: bench_size
-- Bytes of a row, with the free room in its page, and of its entries in all indexes.
SELECT pg_table_size('public.user_agents') / count(*) AS bytes_per_row,
       pg_indexes_size('public.user_agents') / count(*) AS index_bytes_per_row
  FROM public.user_agents

-- name: bench_sign_in
-- What PostgREST does before a request: until the end of the transaction we are this user, in the role of all users.
SELECT set_config('request.jwt.claims', json_build_object('sub', %(user_id)s::uuid)::text, true),
       set_config('role', 'authenticated', true)

-- name: bench_vacuum
-- What filling the tables has left to do would otherwise be done in the middle of a measurement.
VACUUM (ANALYZE) auth.users, public.user_agents, public.usage_daily, public.user_agent_conversations

-- name: bench_soft_delete
-- Users whose pairs were all deleted some weeks ago, after one use each on a day that the ledger still has. Days and
-- conversations lie in another order than their pairs, as they do in life.
WITH day AS (
    SELECT (now() AT TIME ZONE 'UTC')::date - 40 AS day
), partition AS (
    SELECT public.usage_events_ensure_day(day) FROM day
), users AS (
    INSERT INTO auth.users (id) SELECT gen_random_uuid() FROM generate_series(1, %(users)s), partition RETURNING id
), pairs AS (
    INSERT INTO public.user_agents (
        user_id, agent_id, deleted_at, usage_count, message_count, success_count, conversation_count
    )
    SELECT u.id, a.id, now() - (31 + 9 * random()) * interval '1 day', 1, 1, 1, 1
      FROM users u CROSS JOIN public.agents a
    RETURNING user_id, agent_id
), days AS (
    INSERT INTO public.usage_daily (
        user_id, agent_id, day, usage_count, message_count, success_count, conversation_count
    )
    SELECT user_id, agent_id, day, 1, 1, 1, 1 FROM pairs, day ORDER BY random()
), conversations AS (
    INSERT INTO public.user_agent_conversations SELECT user_id, agent_id, gen_random_uuid() FROM pairs ORDER BY random()
)
SELECT count(*) AS pairs FROM pairs

-- name: bench_list_2
-- 2.0.0: what a user has, newest first.
SELECT id, agent_id, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s
 ORDER BY added_at DESC
 LIMIT 50

-- name: bench_popular_2
-- 2.0.0: what a user uses most.
SELECT id, agent_id, usage_count, last_used_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND usage_count > 0
 ORDER BY usage_count DESC
 LIMIT 50

-- name: bench_recent_2
-- 2.0.0: what a user used last.
SELECT id, agent_id, usage_count, last_used_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND last_used_at IS NOT NULL
 ORDER BY last_used_at DESC NULLS LAST
 LIMIT 50

-- name: bench_list_3
-- Since 3.0.0: what a user has, newest first.
SELECT id, agent_id, custom_name, folder, tags, is_favorite, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND deleted_at IS NULL
 ORDER BY added_at DESC
 LIMIT 50

-- name: bench_favourites_3
-- Since 3.0.0: what a user marked, in the user's own order.
SELECT id, agent_id, custom_name, folder, tags, is_favorite, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND deleted_at IS NULL AND is_favorite
 ORDER BY sort_order, added_at DESC
 LIMIT 50

-- name: bench_folder_3
-- Since 3.0.0: one folder of a user, in the user's own order.
SELECT id, agent_id, custom_name, folder, tags, is_favorite, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND deleted_at IS NULL AND folder = %(folder)s
 ORDER BY sort_order
 LIMIT 50

-- name: bench_tags_3
-- Since 3.0.0: what a user gave a tag. The GIN index on tags serves service_role only; here user_id is looked up.
SELECT id, agent_id, custom_name, folder, tags, is_favorite, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND deleted_at IS NULL AND tags @> %(tags)s
 ORDER BY added_at DESC
 LIMIT 50

-- name: bench_popular_3
-- Since 3.0.0: what a user uses most.
SELECT id, agent_id, custom_name, folder, tags, is_favorite, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND deleted_at IS NULL AND usage_count > 0
 ORDER BY usage_count DESC
 LIMIT 50

-- name: bench_recent_3
-- Since 3.0.0: what a user used last.
SELECT id, agent_id, custom_name, folder, tags, is_favorite, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND deleted_at IS NULL AND last_used_at IS NOT NULL
 ORDER BY last_used_at DESC NULLS LAST
 LIMIT 50
