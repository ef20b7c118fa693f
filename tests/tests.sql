-- Queries that only the tests use.

-- name: last_conversations
-- The last conversation of each pair.
SELECT user_id, agent_id, last_conversation_id FROM public.user_agents WHERE last_conversation_id IS NOT NULL

-- name: dead_letters
-- All dead letters, oldest first.
SELECT id, entry_key, position, stream, entry_id, events, reason, payload, created_at, replayed_at
  FROM public.usage_dead_letters
 ORDER BY id

-- name: ledger_days
-- Partitions of the ledger for some days.
SELECT public.usage_events_ensure_day(day) FROM unnest(%(days)s::date[]) AS day

-- name: summary_events
-- Events of every kind on these days, many at full and half hours: ratings, unknown costs, response times, models and
-- providers. Always the same ones.
INSERT INTO public.usage_events (
    event_id, occurred_at, type, user_id, agent_id, messages, input_tokens, output_tokens, tokens, cost_usd,
    response_time_ms, success, model, provider, cached_input_tokens, reasoning_tokens, rating
)
SELECT gen_random_uuid(),
       (%(days)s::date[])[1 + r[1] %% cardinality(%(days)s::date[])]::timestamp AT TIME ZONE 'UTC'
       + CASE WHEN r[2] %% 3 = 0 THEN r[3] %% 48 * interval '30 minutes' ELSE r[3] %% 86400000 * interval '1 ms' END,
       CASE WHEN r[4] %% 20 = 0 THEN 'rating' ELSE 'usage' END,
       lpad(to_hex(1000 + r[5] %% 40), 32, '0')::uuid, lpad(to_hex(r[6] %% 6), 32, '0')::uuid,
       1 + r[7] %% 4, r[8] %% 1000, r[9] %% 100, r[10] %% 1100, CASE WHEN r[11] %% 5 > 0 THEN r[12] %% 100000 / 1e7 END,
       CASE WHEN r[13] %% 6 > 0 THEN exp(r[14] %% 1000 / 80.0)::integer END, r[15] %% 9 > 0,
       (ARRAY['small', 'large', NULL])[1 + r[16] %% 3], (ARRAY['one', NULL])[1 + r[17] %% 2],
       CASE WHEN r[18] %% 2 = 0 THEN r[18] %% 50 END, CASE WHEN r[19] %% 3 = 0 THEN r[19] %% 50 END,
       CASE WHEN r[4] %% 20 = 0 THEN 4 END
  FROM generate_series(%(first)s::integer, %(last)s::integer) AS n,
       LATERAL (SELECT array_agg(hashint4extended(n, k) & 2147483647 ORDER BY k) AS r FROM generate_series(1, 19) AS k) AS s

-- name: mark_new_hours
-- The hours of the events of this transaction.
INSERT INTO public.agent_usage_hour_marks (hour)
SELECT DISTINCT date_trunc('hour', occurred_at, 'UTC') FROM public.usage_events WHERE recorded_at = now()

-- name: fill_daily
-- The roll-up by pair and day; a pair that only rated has a row without uses.
INSERT INTO public.usage_daily (user_id, agent_id, day, usage_count)
SELECT user_id, agent_id, (occurred_at AT TIME ZONE 'UTC')::date, count(*) FILTER (WHERE type = 'usage')
  FROM public.usage_events
 GROUP BY 1, 2, 3

-- name: retire_some_pairs
-- Move the days of an agent's pairs to where those of deleted pairs are.
WITH retired AS (
    DELETE FROM public.usage_daily WHERE agent_id = '00000000-0000-0000-0000-000000000004' RETURNING *
)
INSERT INTO public.usage_retired_daily SELECT * FROM retired

-- name: ledger_summary
-- What usage_summary() returns, from single events; exact percentiles.
SELECT date_trunc(%(unit)s::text, occurred_at AT TIME ZONE %(zone)s::text) AS period,
       CASE WHEN %(by_agent)s::boolean THEN agent_id END AS agent_id,
       CASE WHEN %(by_user)s::boolean THEN user_id END AS user_id,
       CASE WHEN %(by_model)s::boolean THEN coalesce(model, '') END AS model,
       CASE WHEN %(by_provider)s::boolean THEN coalesce(provider, '') END AS provider,
       count(*) AS usage_count, sum(messages) AS message_count, count(*) FILTER (WHERE success) AS success_count,
       count(*) FILTER (WHERE NOT success) AS error_count, sum(input_tokens) AS input_tokens,
       sum(output_tokens) AS output_tokens, coalesce(sum(cached_input_tokens), 0) AS cached_input_tokens,
       coalesce(sum(cache_write_tokens), 0) AS cache_write_tokens, coalesce(sum(reasoning_tokens), 0) AS reasoning_tokens,
       sum(tokens) AS total_tokens_used, sum(cost_usd) AS total_cost_usd, count(cost_usd) AS cost_samples,
       count(response_time_ms) AS response_time_samples, round(avg(response_time_ms))::integer AS avg_response_time_ms,
       CASE WHEN count(response_time_ms) >= 20 THEN percentile_disc(0.5) WITHIN GROUP (ORDER BY response_time_ms) END AS p50_ms,
       CASE WHEN count(response_time_ms) >= 20 THEN percentile_disc(0.95) WITHIN GROUP (ORDER BY response_time_ms) END AS p95_ms,
       CASE WHEN count(response_time_ms) >= 20 THEN percentile_disc(0.99) WITHIN GROUP (ORDER BY response_time_ms) END AS p99_ms,
       count(DISTINCT user_id) AS users
  FROM public.usage_events
 WHERE type = 'usage' AND occurred_at >= %(since)s::timestamptz AND occurred_at < %(until)s::timestamptz
   AND (%(agent)s::uuid IS NULL OR agent_id = %(agent)s::uuid) AND (%(user)s::uuid IS NULL OR user_id = %(user)s::uuid)
 GROUP BY 1, 2, 3, 4, 5
 ORDER BY 1, 2, 3, 4, 5

-- name: scanned_days
-- The partitions of the ledger that this transaction has read, by themselves or their index.
SELECT DISTINCT substring(relname FROM '^usage_events_[0-9]+') AS partition
  FROM pg_catalog.pg_class
 WHERE relname ~ '^usage_events_[0-9]{8}' AND pg_stat_get_xact_numscans(oid) > 0
 ORDER BY 1

-- name: dropped_days
-- Totals of a day and the next one, of two agents, that the ledger has dropped.
INSERT INTO public.agent_usage_daily (
    day, agent_id, model, provider, usage_count, message_count, success_count, error_count, input_tokens, output_tokens,
    cached_input_tokens, cache_write_tokens, reasoning_tokens, total_tokens_used, total_cost_usd, cost_samples,
    response_time_total_ms, response_time_samples, latency_buckets, latency_counts, users
)
SELECT %(day)s::date + n, gen_random_uuid(), model, '', 15, 15, 15, 0, 0, 0, 0, 0, 0, 0, 1, 12 + length(model), 3000, 15,
       '{100,110}', '{10,5}', 2
  FROM generate_series(0, 1) AS n, unnest(ARRAY['', 'x']) AS model

-- name: dropped_days_of_pairs
-- Totals of pairs: of a day before, of the day, and of the next one, of which a pair was deleted.
INSERT INTO public.usage_daily (user_id, agent_id, day, usage_count, response_time_samples)
SELECT lpad(pair::text, 32, '0')::uuid, gen_random_uuid(), %(day)s::date + n, uses, uses
  FROM (VALUES (-1, 1, 7), (0, 1, 20), (0, 2, 10), (1, 2, 17)) AS days (n, pair, uses)

-- name: pairs_of_dropped_days
-- Pairs of each day that the ledger has dropped. Before them the planner expects to find a row of a day at once, and after
-- them it reads all others first.
INSERT INTO public.usage_daily (user_id, agent_id, day, usage_count)
SELECT gen_random_uuid(), gen_random_uuid(), day, 1
  FROM (SELECT DISTINCT day FROM public.agent_usage_daily) AS days, generate_series(1, 200) ORDER BY day;
ANALYZE public.usage_daily

-- name: reads_of_pairs
-- How often this transaction has read the totals of pairs: blocks for each that the table has.
SELECT pg_stat_get_xact_blocks_fetched(oid)::float8 * current_setting('block_size')::integer / pg_relation_size(oid)
  FROM pg_catalog.pg_class WHERE oid = 'public.usage_daily'::regclass

-- name: hash_partitions
-- Put user_agents into hash partitions by user, with every constraint, index and trigger that such a table takes. Its
-- primary key is the one thing that it does not: id alone cannot be unique.
ALTER TABLE public.user_agents RENAME TO user_agents_whole;

CREATE TABLE public.user_agents (
    LIKE public.user_agents_whole INCLUDING ALL EXCLUDING INDEXES,
    PRIMARY KEY (user_id, id), UNIQUE (user_id, agent_id)
) PARTITION BY HASH (user_id);

DO $$
DECLARE
    statement text;
BEGIN
    FOR part IN 0..3 LOOP
        EXECUTE format('CREATE TABLE public.user_agents_%s PARTITION OF public.user_agents'
                       ' FOR VALUES WITH (MODULUS 4, REMAINDER %s) WITH (fillfactor = 50)', part, part);
    END LOOP;
    INSERT INTO public.user_agents SELECT * FROM public.user_agents_whole;
    FOR statement IN
        SELECT replace(regexp_replace(pg_get_indexdef(indexrelid), 'INDEX \S+', 'INDEX'), 'user_agents_whole', 'user_agents')
          FROM pg_index WHERE indrelid = 'public.user_agents_whole'::regclass AND NOT indisunique
         UNION ALL
        SELECT 'ALTER TABLE public.user_agents ADD ' || pg_get_constraintdef(oid)
          FROM pg_constraint WHERE conrelid = 'public.user_agents_whole'::regclass AND contype = 'f'
         UNION ALL
        SELECT replace(pg_get_triggerdef(oid), 'public.user_agents_whole', 'public.user_agents')
          FROM pg_trigger WHERE tgrelid = 'public.user_agents_whole'::regclass AND NOT tgisinternal
    LOOP
        EXECUTE statement;
    END LOOP;
END $$

-- name: hot_share_of_parts
-- The share of HOT updates among those of the partitions.
SELECT sum(n_tup_hot_upd) / nullif(sum(n_tup_upd), 0)
  FROM pg_stat_user_tables WHERE relname LIKE 'user_agents\__' AND n_tup_upd > 0
