-- Compare counters, roll-up, ledger and intake totals; repair.sql repairs the first two.
--
-- Figures are named like the columns of usage_daily and user_agents, from the first query to the report. Large sets are
-- compared as rows, which costs little; jsonb, one key for each figure, is built only for what differs. Conditions on
-- jsonb treat "NaN" separately, which jsonb holds as text.

-- name: retained_days
-- The days of the ledger, oldest first, without future days whose partition was created ahead.
SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day
  FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'public.usage_events'::regclass AND NOT i.inhdetachpending
   AND c.relname ~ '^usage_events_[0-9]{8}$'
   AND right(c.relname, 8) <= to_char((now() AT TIME ZONE 'UTC') + interval '1 day', 'YYYYMMDD')
 ORDER BY day

-- name: any_pair
-- A pair at random, among the rows from a random page on. A random UUID would not do: ids that begin with a time all lie
-- close together.
SELECT user_id, agent_id
  FROM (
    SELECT user_id, agent_id
      FROM public.user_agents
     WHERE ctid >= (SELECT format('(%%s,0)', floor(
                       random() * pg_relation_size('public.user_agents') / current_setting('block_size')::integer))::tid)
     LIMIT 1000
  ) AS rows
 ORDER BY random() LIMIT 1

-- name: next_pairs
-- The first pair after a chunk, which ends after a number of pairs or of their rows; no row after the last chunk.
SELECT user_id, agent_id
  FROM (
    (SELECT user_id, agent_id FROM public.user_agents WHERE (user_id, agent_id) > (%(user_id)s, %(agent_id)s)
      ORDER BY user_id, agent_id OFFSET %(pairs)s LIMIT 1)
    UNION ALL
    (SELECT user_id, agent_id FROM public.usage_daily WHERE (user_id, agent_id) > (%(user_id)s, %(agent_id)s)
      ORDER BY user_id, agent_id OFFSET %(rows)s LIMIT 1)
    UNION ALL
    (SELECT user_id, agent_id FROM public.user_agent_conversations
      WHERE (user_id, agent_id) > (%(user_id)s, %(agent_id)s)
      ORDER BY user_id, agent_id OFFSET %(rows)s LIMIT 1)
  ) AS ahead
 ORDER BY user_id, agent_id LIMIT 1

-- name: count_pairs
-- The number of pairs in a range.
SELECT count(*) AS pairs
  FROM public.user_agents
 WHERE (user_id, agent_id) >= (%(user_id)s, %(agent_id)s) AND (
        %(end_user)s::uuid IS NULL OR (user_id, agent_id) < (%(end_user)s::uuid, %(end_agent)s::uuid))

-- name: day_differences
-- Pairs whose totals of a day, retired ones included, are not those of its events. One statement has one snapshot: an
-- event that is counted meanwhile is in all tables or in none. A day that leaves the ledger meanwhile does not differ.
WITH ledger AS (
    -- In the order of the list, since rows are compared by the places of their columns.
    SELECT user_id, agent_id,
           count(*)::numeric AS usage_count,
           sum(messages)::numeric AS message_count,
           (count(*) FILTER (WHERE success))::numeric AS success_count,
           (count(*) FILTER (WHERE NOT success))::numeric AS error_count,
           sum(tokens)::numeric AS total_tokens_used,
           coalesce(sum(cost_usd), 0)::numeric AS total_cost_usd,
           coalesce(sum(response_time_ms), 0)::numeric AS response_time_total_ms,
           count(response_time_ms)::numeric AS response_time_samples,
           sum(input_tokens)::numeric AS input_tokens,
           sum(output_tokens)::numeric AS output_tokens,
           coalesce(sum(cached_input_tokens), 0)::numeric AS cached_input_tokens,
           coalesce(sum(cache_write_tokens), 0)::numeric AS cache_write_tokens,
           coalesce(sum(reasoning_tokens), 0)::numeric AS reasoning_tokens
      FROM public.usage_events
     WHERE occurred_at >= %(day)s::timestamp AT TIME ZONE 'UTC' AND type = 'usage'
       AND occurred_at < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC'
     GROUP BY user_id, agent_id
), counted AS (
    SELECT user_id, agent_id,
           sum({ledger_sums})::numeric AS {ledger_sums}
      FROM (
        SELECT * FROM public.usage_daily WHERE day = %(day)s
        UNION ALL
        SELECT * FROM public.usage_retired_daily WHERE day = %(day)s
      ) AS days
     GROUP BY user_id, agent_id
), differing AS MATERIALIZED (
    -- Includes pairs with zeros on one side and no row on the other, of which no figure differs.
    SELECT user_id, agent_id, ledger, counted
      FROM ledger FULL JOIN counted USING (user_id, agent_id)
     WHERE ledger IS DISTINCT FROM counted
       AND (%(after_user)s::uuid IS NULL OR (user_id, agent_id) > (%(after_user)s::uuid, %(after_agent)s::uuid))
       AND EXISTS (
            SELECT FROM pg_catalog.pg_inherits
             WHERE inhparent = 'public.usage_events'::regclass AND NOT inhdetachpending
               AND inhrelid = to_regclass('public.usage_events_' || to_char(%(day)s::date, 'YYYYMMDD')))
     ORDER BY user_id, agent_id
     LIMIT %(most)s
)
-- LATERAL instead of joins, since only few pairs differ.
SELECT c.user_id, c.agent_id, ua.id AS row_id, parts.expected, parts.found, parts.added, parts.added_retired,
       parts.unexplained, retired.is_known AS has_retired
  FROM differing c
  LEFT JOIN LATERAL (
    SELECT * FROM public.user_agents u WHERE u.user_id = c.user_id AND u.agent_id = c.agent_id LIMIT 1
 ) ua ON true
 CROSS JOIN LATERAL (
    -- By how much the days of the pair exceed its counters.
    SELECT
           coalesce(sum(d.{sums}), 0) - coalesce(ua.{sums}, 0) AS {sums}
      FROM public.usage_daily d
     WHERE d.user_id = c.user_id AND d.agent_id = c.agent_id
 ) surplus
 CROSS JOIN LATERAL (
    SELECT to_jsonb(c.ledger) - '{user_id,agent_id}'::text[] AS ledger,
           to_jsonb(c.counted) - '{user_id,agent_id}'::text[] AS counted
    -- OFFSET: computed once instead of for each figure.
    OFFSET 0
 ) sides
 CROSS JOIN LATERAL (
    -- No counter has the parts of the tokens, so they are explained where their sum is.
    SELECT CASE
        WHEN coalesce((sides.counted ->> 'total_tokens_used')::numeric, 0)
             > coalesce((sides.ledger ->> 'total_tokens_used')::numeric, 0)
        THEN surplus.total_tokens_used
        ELSE greatest(
            (sides.counted ->> '{parts}')::numeric
        ) END AS tokens
 ) surplus_parts
 CROSS JOIN LATERAL (
    SELECT to_jsonb(surplus) || jsonb_build_object(
               '{parts}', tokens
           ) AS figures
    OFFSET 0
 ) surpluses
  LEFT JOIN LATERAL (
    SELECT to_jsonb(p) AS figures
      FROM public.usage_retired_daily p
     WHERE p.user_id = c.user_id AND p.agent_id = c.agent_id AND p.day = %(day)s LIMIT 1
 ) retired_day ON true
 CROSS JOIN LATERAL (
    -- OFFSET: looked up once instead of wherever it is used.
    SELECT EXISTS (
        SELECT FROM public.usage_retired_daily p WHERE p.user_id = c.user_id AND p.agent_id = c.agent_id) AS is_known
    OFFSET 0
 ) retired
 CROSS JOIN LATERAL (
    -- Where a pair has retired rows, those lack what is missing if there is no other row, or if the counters of the
    -- live row agree with its days.
    SELECT retired.is_known AND (
        ua.id IS NULL
        OR (surplus.usage_count, surplus.error_count, surplus.total_tokens_used, surplus.total_cost_usd) = (0, 0, 0, 0)
    ) AS from_retired
 ) missing
 CROSS JOIN LATERAL (
    SELECT jsonb_object_agg(name, f.expected) AS expected, jsonb_object_agg(name, f.found) AS found,
           jsonb_object_agg(name, CASE WHEN missing.from_retired THEN 0 ELSE f.missing END - f.present
                                  - CASE WHEN %(accept)s THEN f.excess - f.present - f.retired ELSE 0 END) AS added,
           jsonb_object_agg(name, CASE WHEN missing.from_retired THEN f.missing ELSE 0 END - f.retired) AS added_retired,
           jsonb_object_agg(name, f.excess - f.present - f.retired) AS unexplained
      FROM (
        -- Lower an excess first by what the counters do not have, then in retired rows. The rest is unexplained.
        SELECT name, expected, found, greatest(expected - found, 0) AS missing, greatest(found - expected, 0) AS excess,
               present.part AS present, least(greatest(found - expected, 0) - present.part, greatest(retired, 0)) AS retired
          FROM (
            SELECT name, coalesce((sides.ledger ->> name)::numeric, 0) AS expected,
                   coalesce((sides.counted ->> name)::numeric, 0) AS found,
                   (retired_day.figures ->> name)::numeric AS retired, (surpluses.figures ->> name)::numeric AS surplus
              FROM jsonb_object_keys(coalesce(sides.ledger, sides.counted)) AS name
          ) figures
         CROSS JOIN LATERAL (
            SELECT least(greatest(found - expected, 0), greatest(surplus, 0), greatest(found - coalesce(retired, 0), 0))
                   AS part
         ) present
      ) f
 ) parts
 ORDER BY c.user_id, c.agent_id

-- name: counter_differences
-- Pairs of a range whose counters are not the sums of their days, or whose conversations are not the recorded ones and
-- those of the opening balance. One statement has one snapshot, as above.
WITH pairs AS (
    SELECT *
      FROM public.user_agents
     WHERE (user_id, agent_id) >= (%(user_id)s, %(agent_id)s) AND (
            %(end_user)s::uuid IS NULL OR (user_id, agent_id) < (%(end_user)s::uuid, %(end_agent)s::uuid))
), days AS (
    SELECT user_id, agent_id,
           sum({counters}) AS {counters},
           coalesce(sum(conversation_count) FILTER (WHERE day = '1970-01-01'), 0) AS opening
      FROM public.usage_daily
     WHERE (user_id, agent_id) >= (%(user_id)s, %(agent_id)s) AND (
            %(end_user)s::uuid IS NULL OR (user_id, agent_id) < (%(end_user)s::uuid, %(end_agent)s::uuid))
     GROUP BY user_id, agent_id
), recorded AS (
    SELECT user_id, agent_id, count(*) AS conversations
      FROM public.user_agent_conversations
     WHERE (user_id, agent_id) >= (%(user_id)s, %(agent_id)s) AND (
            %(end_user)s::uuid IS NULL OR (user_id, agent_id) < (%(end_user)s::uuid, %(end_agent)s::uuid))
     GROUP BY user_id, agent_id
), differing AS MATERIALIZED (
    SELECT user_id, agent_id, p.id AS row_id, expected, found
      FROM pairs p FULL JOIN days d USING (user_id, agent_id) FULL JOIN recorded r USING (user_id, agent_id)
     CROSS JOIN LATERAL (
        SELECT
               coalesce(d.{sums}, 0)::numeric AS {sums},
               -- The average after a repair, which raises total and samples and never lowers them.
               coalesce(
                   CASE WHEN greatest(p.response_time_samples, d.response_time_samples) > 0
                        THEN least(round(greatest(p.response_time_total_ms, d.response_time_total_ms)
                                         / greatest(p.response_time_samples, d.response_time_samples)), 2147483647) END,
                   p.avg_response_time_ms)::numeric AS avg_response_time_ms,
               (coalesce(d.opening, 0) + coalesce(r.conversations, 0))::numeric AS conversation_count,
               (coalesce(d.opening, 0) + coalesce(r.conversations, 0))::numeric AS "usage_daily.conversation_count"
     ) expected
     CROSS JOIN LATERAL (
        SELECT
               coalesce(p.{sums}, 0)::numeric AS {sums},
               p.avg_response_time_ms::numeric AS avg_response_time_ms,
               coalesce(p.conversation_count, 0)::numeric AS conversation_count,
               coalesce(d.conversation_count, 0)::numeric AS "usage_daily.conversation_count"
     ) found
     WHERE expected IS DISTINCT FROM found
       AND (%(after_user)s::uuid IS NULL OR (user_id, agent_id) > (%(after_user)s::uuid, %(after_agent)s::uuid))
     ORDER BY user_id, agent_id
     LIMIT %(most)s
)
SELECT user_id, agent_id, row_id, sides.expected, sides.found, figures.added,
       NULL::jsonb AS added_retired, figures.unexplained, false AS has_retired
  FROM differing
 CROSS JOIN LATERAL (
    -- OFFSET: computed once instead of for each figure.
    SELECT to_jsonb(differing.expected) AS expected, to_jsonb(differing.found) AS found OFFSET 0
 ) sides
 CROSS JOIN LATERAL (
    SELECT jsonb_object_agg(name, CASE
               WHEN is_of_days
               THEN f.expected - f.found + CASE WHEN %(accept)s THEN 0 ELSE f.unexplained END
               WHEN f.expected <= f.bound AND name <> 'avg_response_time_ms'
               THEN greatest(f.expected - f.found, 0)
               -- A sum that its column cannot hold is not added; the average is computed.
               ELSE 0 END) AS added,
           jsonb_object_agg(name, f.unexplained) AS unexplained
      FROM (
        SELECT *,
               -- Conversations of the days are unexplained only as far as the counter has them, too.
               CASE WHEN name = 'avg_response_time_ms' THEN 0
                    ELSE greatest(CASE WHEN is_of_days THEN least(counter, found) ELSE found END - expected, 0)
                    END AS unexplained
          FROM (
            SELECT name, expected.value::numeric AS expected, (sides.found ->> name)::numeric AS found,
                   name = 'usage_daily.conversation_count' AS is_of_days,
                   (sides.found ->> 'conversation_count')::numeric AS counter,
                   coalesce(
                       ('{"usage_count": 2147483647, "total_cost_usd": 9999999999}'::jsonb ->> name)::numeric,
                       9223372036854775807) AS bound
              FROM jsonb_each_text(sides.expected) AS expected (name, value)
          ) AS numbers
      ) f
 ) figures
 ORDER BY user_id, agent_id

-- name: recorded_by_day
-- The days on which the events of a day were recorded. Calls of track_agent_usage are not in the intake totals; their time is
-- that of their recording. An event of a publisher whose clock is ahead may have the same time by chance, so there are two
-- bounds: without all such events, and with them.
SELECT (recorded_at AT TIME ZONE 'UTC')::date AS day,
       count(*) FILTER (WHERE occurred_at <> recorded_at) AS fewest, count(*) AS most
  FROM public.usage_events
 WHERE occurred_at >= %(day)s::timestamp AT TIME ZONE 'UTC'
   AND occurred_at < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC'
 GROUP BY 1

-- name: intake_by_day
-- The intake totals of past days, without a day that ended so recently that a transaction of it may still run, and
-- whether a backfill is among them.
SELECT day, sum(accepted) AS accepted, sum(applied) AS applied, sum(applied + duplicate + quarantined) AS parts,
       bool_or(stream LIKE '%% backfill') AS has_backfill
  FROM public.usage_intake
 WHERE day < ((now() - interval '1 hour') AT TIME ZONE 'UTC')::date AND day BETWEEN %(first)s AND %(last)s
 GROUP BY day ORDER BY day
