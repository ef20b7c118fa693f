-- The queries of a user's own pages, and the tables that they read.

-- name: reset_pair_source
-- Remove all users and agents, and make the table from which users, agents and user_agents are filled.
TRUNCATE public.agents, auth.users CASCADE;
DROP TABLE IF EXISTS public.bench_pairs;
CREATE UNLOGGED TABLE public.bench_pairs (
    user_id uuid, agent_id uuid, chance integer, added_at timestamptz, last_used_at timestamptz, uses integer
)

-- name: insert_pairs_2
-- Fill user_agents of 2.0.0.
INSERT INTO public.user_agents (user_id, agent_id, added_at, last_used_at, usage_count, metadata)
SELECT user_id, agent_id, added_at, last_used_at, uses, jsonb_build_object('plan', mod(chance, 53))
  FROM public.bench_pairs

-- name: insert_pairs_3
-- Fill user_agents since 3.0.0: organised, customised, one in seventeen soft-deleted, some shared.
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

-- name: fill_pair_source
-- Every fiftieth user has up to 200 agents, the others up to 33; one pair in four was never used. The order is random, as
-- in a table that grew by use: a user's rows are in different pages. The remainders of `chance` determine what a row
-- holds; the divisors are different primes, so that one property does not predict another.
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

-- name: insert_users_and_agents
-- Insert the users and agents that the foreign keys of the pairs need.
WITH users AS (
    INSERT INTO auth.users (id) SELECT DISTINCT user_id FROM public.bench_pairs RETURNING id
), agents AS (
    INSERT INTO public.agents (id, name) SELECT DISTINCT agent_id, 'agent ' || agent_id FROM public.bench_pairs
    RETURNING id
)
SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM agents) AS agents

-- name: select_users
-- Select the users that the queries run for: those with the most agents, then as many of the others.
SELECT user_id
  FROM (
    SELECT user_id, row_number() OVER (ORDER BY count(*) DESC, user_id) AS place
      FROM public.user_agents GROUP BY user_id
) AS owners
 ORDER BY place > %(per_group)s, user_id
 LIMIT 2 * %(per_group)s

-- name: row_size
-- Bytes per row, free space in its page included, and bytes of its entries in all indexes.
SELECT pg_table_size('public.user_agents') / count(*) AS bytes_per_row,
       pg_indexes_size('public.user_agents') / count(*) AS index_bytes_per_row
  FROM public.user_agents

-- name: list_2
-- 2.0.0: a user's agents, newest first.
SELECT id, agent_id, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s
 ORDER BY added_at DESC
 LIMIT 50

-- name: popular_2
-- 2.0.0: a user's most used agents.
SELECT id, agent_id, usage_count, last_used_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND usage_count > 0
 ORDER BY usage_count DESC
 LIMIT 50

-- name: recent_2
-- 2.0.0: a user's most recently used agents.
SELECT id, agent_id, usage_count, last_used_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND last_used_at IS NOT NULL
 ORDER BY last_used_at DESC NULLS LAST
 LIMIT 50

-- name: list_3
-- Since 3.0.0: a user's agents, newest first.
SELECT id, agent_id, custom_name, folder, tags, is_favorite, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND deleted_at IS NULL
 ORDER BY added_at DESC
 LIMIT 50

-- name: favourites_3
-- Since 3.0.0: a user's favourites, in the user's own order.
SELECT id, agent_id, custom_name, folder, tags, is_favorite, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND deleted_at IS NULL AND is_favorite
 ORDER BY sort_order, added_at DESC
 LIMIT 50

-- name: folder_3
-- Since 3.0.0: one folder of a user, in the user's own order.
SELECT id, agent_id, custom_name, folder, tags, is_favorite, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND deleted_at IS NULL AND folder = %(folder)s
 ORDER BY sort_order
 LIMIT 50

-- name: tags_3
-- Since 3.0.0: a user's agents with a tag. The index is one on user_id; the GIN index on tags serves service_role only.
SELECT id, agent_id, custom_name, folder, tags, is_favorite, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND deleted_at IS NULL AND tags @> %(tags)s
 ORDER BY added_at DESC
 LIMIT 50

-- name: popular_3
-- Since 3.0.0: a user's most used agents.
SELECT id, agent_id, custom_name, folder, tags, is_favorite, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND deleted_at IS NULL AND usage_count > 0
 ORDER BY usage_count DESC
 LIMIT 50

-- name: recent_3
-- Since 3.0.0: a user's most recently used agents.
SELECT id, agent_id, custom_name, folder, tags, is_favorite, usage_count, last_used_at, added_at
  FROM public.user_agents
 WHERE user_id = %(user_id)s AND deleted_at IS NULL AND last_used_at IS NOT NULL
 ORDER BY last_used_at DESC NULLS LAST
 LIMIT 50
