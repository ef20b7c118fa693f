-- Counters, roll-up, ledger and intake compared, and repaired.

-- name: retained_days
-- The days that the ledger has, oldest first, without the partitions made ahead.
SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day
  FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'public.usage_events'::regclass AND NOT i.inhdetachpending
   AND right(c.relname, 8) <= to_char((now() AT TIME ZONE 'UTC') + interval '1 day', 'YYYYMMDD')
 ORDER BY day

-- name: next_pairs
-- The pair at which the next range begins, `pairs` pairs or `rows` of their rows after this one; no row at the end.
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
-- Pairs whose totals of one day, active and retired rows together, are not the sums of its events, and by how much to
-- change which of the two. One statement has one snapshot: what is being counted meanwhile is in all of them or in
-- none. A day that leaves the ledger meanwhile has no differences.
WITH ledger AS (
    SELECT user_id, agent_id, min(occurred_at) AS first_used_at, max(occurred_at) AS last_used_at,
           ARRAY[count(*), sum(messages), count(*) FILTER (WHERE success), count(*) FILTER (WHERE NOT success),
                 sum(input_tokens), sum(output_tokens), sum(tokens), coalesce(sum(cost_usd), 0),
                 coalesce(sum(response_time_ms), 0), count(response_time_ms)]::numeric[] AS figures
      FROM public.usage_events
     WHERE occurred_at >= %(day)s::timestamp AT TIME ZONE 'UTC' AND type = 'usage'
       AND occurred_at < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC'
     GROUP BY user_id, agent_id
), counted AS (
    SELECT user_id, agent_id,
           ARRAY[sum(usage_count), sum(message_count), sum(success_count), sum(error_count), sum(input_tokens),
                 sum(output_tokens), sum(total_tokens_used), sum(total_cost_usd), sum(response_time_total_ms),
                 sum(response_time_samples)]::numeric[] AS figures
      FROM (
        SELECT * FROM public.usage_daily WHERE day = %(day)s
        UNION ALL
        SELECT * FROM public.usage_retired_daily WHERE day = %(day)s
      ) AS days
     GROUP BY user_id, agent_id
), checked AS (
    SELECT user_id, agent_id, coalesce(ledger.figures, array_fill(0::numeric, ARRAY[10])) AS expected,
           coalesce(counted.figures, array_fill(0::numeric, ARRAY[10])) AS found, first_used_at, last_used_at
      FROM ledger FULL JOIN counted USING (user_id, agent_id)
), differing AS MATERIALIZED (
    SELECT *
      FROM checked
     WHERE expected <> found
       AND (%(after_user)s::uuid IS NULL OR (user_id, agent_id) > (%(after_user)s::uuid, %(after_agent)s::uuid))
       AND EXISTS (
            SELECT FROM pg_catalog.pg_inherits
             WHERE inhparent = 'public.usage_events'::regclass AND NOT inhdetachpending
               AND inhrelid = to_regclass('public.usage_events_' || to_char(%(day)s::date, 'YYYYMMDD')))
     ORDER BY user_id, agent_id
     LIMIT %(most)s
)
-- LATERAL instead of joins: evaluated for the few pairs that differ.
SELECT c.user_id, c.agent_id, ua.id AS found_id, c.expected, c.found, parts.added, parts.added_retired,
       parts.unexplained, c.first_used_at, c.last_used_at, history.has_retired
  FROM differing c
  LEFT JOIN LATERAL (
    SELECT * FROM public.user_agents u WHERE u.user_id = c.user_id AND u.agent_id = c.agent_id LIMIT 1
 ) ua ON true
 CROSS JOIN LATERAL (
    -- By how much the active days of the pair exceed its counters.
    SELECT coalesce(sum(d.usage_count), 0) - coalesce(ua.usage_count, 0) AS uses,
           coalesce(sum(d.message_count), 0) - coalesce(ua.message_count, 0) AS messages,
           coalesce(sum(d.success_count), 0) - coalesce(ua.success_count, 0) AS successes,
           coalesce(sum(d.error_count), 0) - coalesce(ua.error_count, 0) AS errors,
           coalesce(sum(d.total_tokens_used), 0) - coalesce(ua.total_tokens_used, 0) AS tokens,
           coalesce(sum(d.total_cost_usd), 0) - coalesce(ua.total_cost_usd, 0) AS cost,
           coalesce(sum(d.response_time_total_ms), 0) - coalesce(ua.response_time_total_ms, 0) AS total_ms,
           coalesce(sum(d.response_time_samples), 0) - coalesce(ua.response_time_samples, 0) AS samples
      FROM public.usage_daily d
     WHERE d.user_id = c.user_id AND d.agent_id = c.agent_id
 ) surplus
 CROSS JOIN LATERAL (
    SELECT CASE WHEN c.found[7] > c.expected[7] THEN surplus.tokens ELSE c.found[5] + c.found[6] END AS tokens
 ) parted
  LEFT JOIN LATERAL (
    SELECT ARRAY[p.usage_count, p.message_count, p.success_count, p.error_count, p.input_tokens, p.output_tokens,
                 p.total_tokens_used, p.total_cost_usd, p.response_time_total_ms, p.response_time_samples] AS figures
      FROM public.usage_retired_daily p
     WHERE p.user_id = c.user_id AND p.agent_id = c.agent_id AND p.day = %(day)s LIMIT 1
 ) retired ON true
 CROSS JOIN LATERAL (
    -- OFFSET: evaluated once, not wherever it is used.
    SELECT EXISTS (
        SELECT FROM public.usage_retired_daily p WHERE p.user_id = c.user_id AND p.agent_id = c.agent_id
    ) AS has_retired
    OFFSET 0
 ) history
 CROSS JOIN LATERAL (
    -- Whether what is missing is missing from the retired days: the pair has some, and it has no row, or its counters
    -- and its active days agree.
    SELECT history.has_retired AND (
        ua.id IS NULL OR (surplus.uses, surplus.errors, surplus.tokens, surplus.cost) = (0, 0, 0, 0)) AS from_retired
 ) missing
 CROSS JOIN LATERAL (
    SELECT array_agg(CASE WHEN missing.from_retired THEN 0 ELSE f.lacks END - f.active
                     - CASE WHEN %(accept)s THEN f.exceeds - f.active - f.retired ELSE 0 END ORDER BY n) AS added,
           array_agg(CASE WHEN missing.from_retired THEN f.lacks ELSE 0 END - f.retired ORDER BY n) AS added_retired,
           array_agg(f.exceeds - f.active - f.retired ORDER BY n) AS unexplained
      FROM (
        -- A surplus is taken first from what the counters do not have, then from the retired days. The rest is
        -- unexplained.
        SELECT n, greatest(expected - found, 0) AS lacks, greatest(found - expected, 0) AS exceeds, active.part AS active,
               least(greatest(found - expected, 0) - active.part, greatest(retired, 0)) AS retired
          FROM unnest(
                   c.expected, c.found, retired.figures,
                   -- Input and output tokens have no counters of their own: they are explained as their sum is.
                   ARRAY[surplus.uses, surplus.messages, surplus.successes, surplus.errors, parted.tokens, parted.tokens,
                         surplus.tokens, surplus.cost, surplus.total_ms, surplus.samples]
               ) WITH ORDINALITY AS f (expected, found, retired, surplus, n)
         CROSS JOIN LATERAL (
            SELECT least(
                greatest(found - expected, 0), greatest(surplus, 0), greatest(found - coalesce(retired, 0), 0)
            ) AS part
         ) active
      ) f
 ) parts
 ORDER BY c.user_id, c.agent_id

-- name: counter_differences
-- Pairs of a range whose counters are not the sums of their days, or whose number of conversations is not that of the
-- recorded ones plus the opening balance. One statement has one snapshot: what is being counted meanwhile is in all of
-- them or in none.
WITH pairs AS (
    SELECT id, user_id, agent_id, avg_response_time_ms, coalesce(conversation_count, 0) AS conversation_count,
           ARRAY[coalesce(usage_count, 0), coalesce(message_count, 0), coalesce(success_count, 0),
                 coalesce(error_count, 0), coalesce(total_tokens_used, 0), coalesce(total_cost_usd, 0),
                 response_time_total_ms, response_time_samples]::numeric[] AS figures
      FROM public.user_agents
     WHERE (user_id, agent_id) >= (%(user_id)s, %(agent_id)s) AND (
            %(end_user)s::uuid IS NULL OR (user_id, agent_id) < (%(end_user)s::uuid, %(end_agent)s::uuid))
), days AS (
    SELECT user_id, agent_id, sum(conversation_count) AS conversations,
           coalesce(sum(conversation_count) FILTER (WHERE day = '1970-01-01'), 0) AS opening,
           ARRAY[sum(usage_count), sum(message_count), sum(success_count), sum(error_count), sum(total_tokens_used),
                 sum(total_cost_usd), sum(response_time_total_ms), sum(response_time_samples)]::numeric[] AS figures
      FROM public.usage_daily
     WHERE (user_id, agent_id) >= (%(user_id)s, %(agent_id)s) AND (
            %(end_user)s::uuid IS NULL OR (user_id, agent_id) < (%(end_user)s::uuid, %(end_agent)s::uuid))
     GROUP BY user_id, agent_id
), noted AS (
    SELECT user_id, agent_id, count(*) AS conversations
      FROM public.user_agent_conversations
     WHERE (user_id, agent_id) >= (%(user_id)s, %(agent_id)s) AND (
            %(end_user)s::uuid IS NULL OR (user_id, agent_id) < (%(end_user)s::uuid, %(end_agent)s::uuid))
     GROUP BY user_id, agent_id
), checked AS (
    SELECT user_id, agent_id, pairs.id AS found_id,
           coalesce(days.figures, array_fill(0::numeric, ARRAY[8]))
           -- The average after a repair, which raises total and samples only where they are too low.
           || coalesce(CASE WHEN greatest(pairs.figures[8], days.figures[8]) > 0
                            THEN least(round(greatest(pairs.figures[7], days.figures[7])
                                             / greatest(pairs.figures[8], days.figures[8])), 2147483647) END,
                       avg_response_time_ms::numeric)
           || array_fill(coalesce(opening, 0) + coalesce(noted.conversations, 0), ARRAY[2]) AS expected,
           coalesce(pairs.figures, array_fill(0::numeric, ARRAY[8])) || avg_response_time_ms::numeric
           || ARRAY[coalesce(conversation_count, 0), coalesce(days.conversations, 0)] AS found
      FROM pairs FULL JOIN days USING (user_id, agent_id) FULL JOIN noted USING (user_id, agent_id)
), differing AS MATERIALIZED (
    SELECT *
      FROM checked
     WHERE expected <> found
       AND (%(after_user)s::uuid IS NULL OR (user_id, agent_id) > (%(after_user)s::uuid, %(after_agent)s::uuid))
     ORDER BY user_id, agent_id
     LIMIT %(most)s
)
SELECT user_id, agent_id, found_id, expected, found,
       figures.added || expected[11] - found[11] + CASE WHEN %(accept)s THEN 0 ELSE figures.unexplained[11] END AS added,
       NULL::numeric[] AS added_retired, figures.unexplained,
       NULL::timestamptz AS first_used_at, NULL::timestamptz AS last_used_at, false AS has_retired
  FROM differing
 CROSS JOIN LATERAL (
    -- A total that exceeds its column is not added. NaN is never unexplained: it is replaced. Conversations of the days
    -- are unexplained only as far as the counter has them, too.
    SELECT array_agg(CASE WHEN f.expected <= f.bound THEN greatest(f.expected - f.found, 0) ELSE 0 END ORDER BY n)
           FILTER (WHERE n < 11) AS added,
           array_agg(CASE WHEN n = 9 OR f.found = 'NaN' THEN 0 ELSE greatest(f.found - f.expected, 0) END ORDER BY n)
           AS unexplained
      FROM unnest(
               expected, found[1:10] || least(found[10], found[11]),
               ARRAY[2147483647, 9223372036854775807, 9223372036854775807, 9223372036854775807, 9223372036854775807,
                     9999999999, 9223372036854775807, 9223372036854775807, 2147483647, 9223372036854775807, NULL]
           ) WITH ORDINALITY AS f (expected, found, bound, n)
 ) figures
 ORDER BY user_id, agent_id

-- name: differing
-- The differences that a repair works on, with the rows that it has locked. Temporary and emptied at commit.
CREATE TEMP TABLE IF NOT EXISTS differing (
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    -- The pair's row when the difference was found, and the one that was locked later.
    found_id uuid,
    expected numeric[] NOT NULL,
    found numeric[] NOT NULL,
    -- What the repair adds to the active rows and to the retired ones.
    added numeric[] NOT NULL,
    added_retired numeric[],
    -- A surplus without an explanation. No repair removes it.
    unexplained numeric[] NOT NULL,
    first_used_at timestamptz,
    last_used_at timestamptz,
    -- The pair has retired rows.
    has_retired boolean NOT NULL,
    locked_id uuid
) ON COMMIT DELETE ROWS

-- name: differing_insert
-- The beginning of a statement that continues with the query that finds the differences.
INSERT INTO differing (
    user_id, agent_id, found_id, expected, found, added, added_retired, unexplained, first_used_at, last_used_at,
    has_retired
)

-- name: differing_rows
-- The differences, and which pairs got their row back.
SELECT user_id, agent_id, expected, found, unexplained, found_id IS NULL AND locked_id IS NOT NULL AS recreated
  FROM differing

-- name: recreate_pairs
-- Recreate lost rows of pairs that were used. A pair that was purged is not one of them: it has retired rows.
INSERT INTO public.user_agents (user_id, agent_id)
SELECT d.user_id, d.agent_id
  FROM differing d JOIN auth.users u ON u.id = d.user_id JOIN public.agents a ON a.id = d.agent_id
 WHERE d.found_id IS NULL AND NOT d.has_retired AND d.expected[1] > d.found[1]
 ORDER BY d.user_id, d.agent_id
ON CONFLICT (user_id, agent_id) DO NOTHING

-- name: lock_pairs
-- Lock the rows in key order, like every write to user_agents: no batch counts for these pairs until the commit. What
-- was counted up to here went into both sides of a difference, so that the difference is still the same.
UPDATE differing d SET locked_id = ua.id
  FROM (
    SELECT ua.id, ua.user_id, ua.agent_id
      FROM public.user_agents ua JOIN differing USING (user_id, agent_id)
     ORDER BY ua.user_id, ua.agent_id FOR NO KEY UPDATE OF ua
  ) AS ua
 WHERE d.user_id = ua.user_id AND d.agent_id = ua.agent_id

-- name: drop_vanished_pairs
-- Drop the differences of pairs that were purged since they were found: their rows are retired.
DELETE FROM differing WHERE found_id IS NOT NULL AND locked_id IS DISTINCT FROM found_id

-- name: repair_retired_days
-- Add the differences to the retired days.
INSERT INTO public.usage_retired_daily AS p (
    user_id, agent_id, day, usage_count, message_count, success_count, error_count, input_tokens, output_tokens,
    total_tokens_used, total_cost_usd, response_time_total_ms, response_time_samples
)
SELECT user_id, agent_id, %(day)s,
       x.added_retired[1], x.added_retired[2],
       x.added_retired[3], x.added_retired[4],
       x.added_retired[5], x.added_retired[6],
       x.added_retired[7], x.added_retired[8],
       x.added_retired[9], x.added_retired[10]
  FROM differing x
 WHERE 0 <> ANY (x.added_retired)
 ORDER BY user_id, agent_id
ON CONFLICT (day, user_id, agent_id) DO UPDATE SET
    usage_count = p.usage_count + excluded.usage_count,
    message_count = p.message_count + excluded.message_count,
    success_count = p.success_count + excluded.success_count,
    error_count = p.error_count + excluded.error_count,
    input_tokens = p.input_tokens + excluded.input_tokens,
    output_tokens = p.output_tokens + excluded.output_tokens,
    total_tokens_used = p.total_tokens_used + excluded.total_tokens_used,
    total_cost_usd = p.total_cost_usd + excluded.total_cost_usd,
    response_time_total_ms = p.response_time_total_ms + excluded.response_time_total_ms,
    response_time_samples = p.response_time_samples + excluded.response_time_samples

-- name: insert_missing_days
-- Insert the missing days.
INSERT INTO public.usage_daily (user_id, agent_id, day)
SELECT user_id, agent_id, %(day)s FROM differing WHERE 0 < ANY (added) ORDER BY user_id, agent_id
ON CONFLICT (user_id, agent_id, day) DO NOTHING

-- name: repair_day
-- Add the differences to the active days.
UPDATE public.usage_daily d SET
    usage_count = d.usage_count + x.added[1],
    message_count = d.message_count + x.added[2],
    success_count = d.success_count + x.added[3],
    error_count = d.error_count + x.added[4],
    input_tokens = d.input_tokens + x.added[5],
    output_tokens = d.output_tokens + x.added[6],
    total_tokens_used = d.total_tokens_used + x.added[7],
    total_cost_usd = d.total_cost_usd + x.added[8],
    response_time_total_ms = d.response_time_total_ms + x.added[9],
    response_time_samples = d.response_time_samples + x.added[10]
  FROM differing x
 WHERE d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day = %(day)s

-- name: accept_day
-- Move the unexplained surplus of a day to the opening balance: the counters stay as they are.
INSERT INTO public.usage_daily AS d (
    user_id, agent_id, day, usage_count, message_count, success_count, error_count, input_tokens, output_tokens,
    total_tokens_used, total_cost_usd, response_time_total_ms, response_time_samples
)
SELECT user_id, agent_id, '1970-01-01', x.unexplained[1], x.unexplained[2], x.unexplained[3], x.unexplained[4],
       x.unexplained[5], x.unexplained[6], x.unexplained[7], x.unexplained[8], x.unexplained[9], x.unexplained[10]
  FROM differing x
 WHERE 0 < ANY (x.unexplained)
 ORDER BY user_id, agent_id
ON CONFLICT (user_id, agent_id, day) DO UPDATE SET
    usage_count = d.usage_count + excluded.usage_count,
    message_count = d.message_count + excluded.message_count,
    success_count = d.success_count + excluded.success_count,
    error_count = d.error_count + excluded.error_count,
    input_tokens = d.input_tokens + excluded.input_tokens,
    output_tokens = d.output_tokens + excluded.output_tokens,
    total_tokens_used = d.total_tokens_used + excluded.total_tokens_used,
    total_cost_usd = d.total_cost_usd + excluded.total_cost_usd,
    response_time_total_ms = d.response_time_total_ms + excluded.response_time_total_ms,
    response_time_samples = d.response_time_samples + excluded.response_time_samples

-- name: delete_empty_retired_days
-- Delete retired days whose totals are all 0.
DELETE FROM public.usage_retired_daily d USING differing x
 WHERE d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day = %(day)s
   AND (d.usage_count, d.message_count, d.success_count, d.error_count, d.input_tokens,
        d.output_tokens, d.total_tokens_used, d.total_cost_usd, d.response_time_total_ms, d.response_time_samples,
        d.conversation_count)
       = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

-- name: delete_empty_days
-- Delete active days whose totals are all 0.
DELETE FROM public.usage_daily d USING differing x
 WHERE d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day = %(day)s
   AND (d.usage_count, d.message_count, d.success_count, d.error_count, d.input_tokens,
        d.output_tokens, d.total_tokens_used, d.total_cost_usd, d.response_time_total_ms, d.response_time_samples,
        d.conversation_count)
       = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

-- name: repair_times
-- First and last use by the events of the day. They may belong to rows that are retired, so where a pair has some, they
-- only fill in unknown times.
UPDATE public.user_agents ua SET
    first_used_at = CASE WHEN x.has_retired THEN coalesce(ua.first_used_at, x.first_used_at)
                         ELSE least(ua.first_used_at, x.first_used_at) END,
    last_used_at = CASE WHEN x.has_retired THEN coalesce(ua.last_used_at, x.last_used_at)
                        ELSE greatest(ua.last_used_at, x.last_used_at) END
  FROM differing x
 WHERE ua.id = x.locked_id AND x.added[1] > 0

-- name: repair_counters
-- Add what is missing to the counters. NaN is replaced: nothing can be added to it.
UPDATE public.user_agents ua SET
    usage_count = coalesce(ua.usage_count, 0) + x.added[1],
    message_count = coalesce(ua.message_count, 0) + x.added[2],
    success_count = coalesce(ua.success_count, 0) + x.added[3],
    error_count = coalesce(ua.error_count, 0) + x.added[4],
    total_tokens_used = coalesce(ua.total_tokens_used, 0) + x.added[5],
    total_cost_usd = CASE
        WHEN ua.total_cost_usd = 'NaN'
        THEN (SELECT coalesce(sum(d.total_cost_usd), 0) FROM public.usage_daily d
               WHERE d.user_id = ua.user_id AND d.agent_id = ua.agent_id)
        ELSE coalesce(ua.total_cost_usd, 0) + x.added[6] END,
    response_time_total_ms = ua.response_time_total_ms + x.added[7],
    response_time_samples = ua.response_time_samples + x.added[8],
    avg_response_time_ms = coalesce(
        CASE WHEN ua.response_time_samples + x.added[8] > 0
             THEN least(round((ua.response_time_total_ms + x.added[7]) / (ua.response_time_samples + x.added[8])),
                        2147483647) END,
        ua.avg_response_time_ms),
    conversation_count = coalesce(ua.conversation_count, 0) + x.added[10]
  FROM differing x
 WHERE ua.id = x.locked_id AND (0 <> ANY (x.added[1:8] || x.added[10]) OR x.expected[9] IS DISTINCT FROM x.found[9])

-- name: insert_missing_conversation_days
-- Insert today's row for pairs that have conversations and no day to count them on.
INSERT INTO public.usage_daily (user_id, agent_id, day)
SELECT user_id, agent_id, (now() AT TIME ZONE 'UTC')::date
  FROM differing x
 WHERE locked_id IS NOT NULL AND expected[11] > found[11] AND NOT EXISTS (
        SELECT FROM public.usage_daily d
         WHERE d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day > '1970-01-01')
 ORDER BY user_id, agent_id
ON CONFLICT (user_id, agent_id, day) DO NOTHING

-- name: repair_conversations
-- The day of a conversation's first use is recorded nowhere else. So the days keep their numbers from the oldest on, as
-- far as the total reaches, and the newest day gets the rest.
WITH days AS (
    SELECT d.user_id, d.agent_id, d.day, d.conversation_count,
           sum(d.conversation_count) OVER upwards AS reached,
           lead(d.day) OVER upwards IS NULL AS is_newest,
           sum(d.conversation_count) OVER (PARTITION BY d.user_id, d.agent_id) + x.added[11] AS wanted
      FROM public.usage_daily d JOIN differing x USING (user_id, agent_id)
     WHERE x.locked_id IS NOT NULL AND x.added[11] <> 0
    WINDOW upwards AS (PARTITION BY d.user_id, d.agent_id ORDER BY d.day)
)
UPDATE public.usage_daily d SET
    conversation_count = CASE WHEN days.is_newest THEN days.wanted ELSE least(days.reached, days.wanted) END
                         - least(days.reached - days.conversation_count, days.wanted)
  FROM days
 WHERE d.user_id = days.user_id AND d.agent_id = days.agent_id AND d.day = days.day

-- name: accept_counters
-- Add what counters have beyond their days to the opening balance. Where a row has an average latency and no samples,
-- the average stands for each use, as in rows older than 4.0.0.
WITH latency AS (
    UPDATE public.user_agents ua SET
        response_time_total_ms = ua.avg_response_time_ms * x.unexplained[1], response_time_samples = x.unexplained[1]
      FROM differing x
     WHERE ua.id = x.locked_id AND x.unexplained[1] > 0 AND ua.avg_response_time_ms >= 0
       AND (ua.response_time_total_ms, ua.response_time_samples) = (0, 0)
    RETURNING ua.id, ua.response_time_total_ms, ua.response_time_samples
)
INSERT INTO public.usage_daily AS d (
    user_id, agent_id, day, usage_count, message_count, success_count, error_count, total_tokens_used, total_cost_usd,
    response_time_total_ms, response_time_samples, conversation_count
)
SELECT user_id, agent_id, '1970-01-01', x.unexplained[1], x.unexplained[2], x.unexplained[3], x.unexplained[4],
       x.unexplained[5], x.unexplained[6], coalesce(l.response_time_total_ms, x.unexplained[7]),
       coalesce(l.response_time_samples, x.unexplained[8]), x.unexplained[10]
  FROM differing x LEFT JOIN latency l ON l.id = x.locked_id
 WHERE x.locked_id IS NOT NULL AND 0 < ANY (x.unexplained)
 ORDER BY user_id, agent_id
ON CONFLICT (user_id, agent_id, day) DO UPDATE SET
    usage_count = d.usage_count + excluded.usage_count,
    message_count = d.message_count + excluded.message_count,
    success_count = d.success_count + excluded.success_count,
    error_count = d.error_count + excluded.error_count,
    total_tokens_used = d.total_tokens_used + excluded.total_tokens_used,
    total_cost_usd = d.total_cost_usd + excluded.total_cost_usd,
    response_time_total_ms = d.response_time_total_ms + excluded.response_time_total_ms,
    response_time_samples = d.response_time_samples + excluded.response_time_samples,
    conversation_count = d.conversation_count + excluded.conversation_count

-- name: retire_pairs
-- Retire the rows of pairs whose user or agent no longer exists.
SELECT public.usage_retire_pairs(array_agg(user_id), array_agg(agent_id)) FROM differing WHERE locked_id IS NULL

-- name: restore_times
-- First and last use of recreated rows, by all events in the ledger.
UPDATE public.user_agents ua SET
    first_used_at = least(ua.first_used_at, e.first_used_at), last_used_at = greatest(ua.last_used_at, e.last_used_at)
  FROM (
    SELECT user_id, agent_id, min(occurred_at) AS first_used_at, max(occurred_at) AS last_used_at
      FROM public.usage_events JOIN unnest(%(users)s::uuid[], %(agents)s::uuid[]) AS r (user_id, agent_id)
     USING (user_id, agent_id)
     WHERE type = 'usage'
     GROUP BY user_id, agent_id
  ) AS e
 WHERE ua.user_id = e.user_id AND ua.agent_id = e.agent_id

-- name: recorded_by_day
-- The days on which the events of a day were recorded. Calls of track_agent_usage, which are not in the intake totals,
-- are left out: they are recorded at the time at which they occur.
SELECT (recorded_at AT TIME ZONE 'UTC')::date AS day, count(*) AS events
  FROM public.usage_events
 WHERE occurred_at >= %(day)s::timestamp AT TIME ZONE 'UTC'
   AND occurred_at < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC' AND occurred_at <> recorded_at
 GROUP BY 1

-- name: intake_by_day
-- The intake totals of the days that have been over for longer than a transaction can last.
SELECT day, sum(accepted) AS accepted, sum(applied) AS applied, sum(applied + duplicate + quarantined) AS parts
  FROM public.usage_intake
 WHERE day < ((now() - interval '1 hour') AT TIME ZONE 'UTC')::date AND day BETWEEN %(first)s AND %(last)s
 GROUP BY day ORDER BY day
