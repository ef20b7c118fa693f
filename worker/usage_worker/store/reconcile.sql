-- Counters, roll-up, ledger and intake compared, and repaired.

-- name: retained_days
-- The days that the ledger has, oldest first; those that are only made ahead are left out.
SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day
  FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'public.usage_events'::regclass AND NOT i.inhdetachpending
   AND right(c.relname, 8) <= to_char((now() AT TIME ZONE 'UTC') + interval '1 day', 'YYYYMMDD')
 ORDER BY day

-- name: next_pairs
-- Where the next pairs begin, so many behind this one; nothing, where these are the last.
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
-- How many pairs a range has.
SELECT count(*) AS pairs
  FROM public.user_agents
 WHERE (user_id, agent_id) >= (%(user_id)s, %(agent_id)s) AND (
        %(end_user)s::uuid IS NULL OR (user_id, agent_id) < (%(end_user)s::uuid, %(end_agent)s::uuid))

-- name: day_differences
-- Pairs whose sums of one day are not those of its events, the life that goes on and those that have ended together,
-- and whose sums are wrong. One statement has one snapshot: what is being counted meanwhile is in all of them or in
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
      ) AS lives
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
-- LATERAL instead of joins: it is asked for the few pairs that differ.
SELECT c.user_id, c.agent_id, ua.id AS life, c.expected, c.found, parts.added, parts.added_past, parts.unexplained,
       c.first_used_at, c.last_used_at, lives.ended
  FROM differing c
  LEFT JOIN LATERAL (
    SELECT * FROM public.user_agents u WHERE u.user_id = c.user_id AND u.agent_id = c.agent_id LIMIT 1
 ) ua ON true
 CROSS JOIN LATERAL (
    -- By how much the days of the life that goes on exceed its counters.
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
 ) past ON true
 CROSS JOIN LATERAL (
    -- OFFSET: looked up once, not wherever it is used.
    SELECT EXISTS (SELECT FROM public.usage_retired_daily p WHERE p.user_id = c.user_id AND p.agent_id = c.agent_id) AS ended
    OFFSET 0
 ) lives
 CROSS JOIN LATERAL (
    -- What is missing: where a pair had several lives, those that ended lack it if there is no other, or if its counters
    -- and its days agree.
    SELECT lives.ended AND (
        ua.id IS NULL OR (surplus.uses, surplus.errors, surplus.tokens, surplus.cost) = (0, 0, 0, 0)) AS from_past
 ) missing
 CROSS JOIN LATERAL (
    SELECT array_agg(CASE WHEN missing.from_past THEN 0 ELSE f.lacks END - f.living
                     - CASE WHEN %(accept)s THEN f.exceeds - f.living - f.past ELSE 0 END ORDER BY n) AS added,
           array_agg(CASE WHEN missing.from_past THEN f.lacks ELSE 0 END - f.past ORDER BY n) AS added_past,
           array_agg(f.exceeds - f.living - f.past ORDER BY n) AS unexplained
      FROM (
        -- What is too much: first what the counters do not have, then what ended lives have. The rest is unexplained.
        SELECT n, greatest(expected - found, 0) AS lacks, greatest(found - expected, 0) AS exceeds, living.part AS living,
               least(greatest(found - expected, 0) - living.part, greatest(past, 0)) AS past
          FROM unnest(
                   c.expected, c.found, past.figures,
                   -- No counter has the two parts of the tokens: they are explained as their sum is.
                   ARRAY[surplus.uses, surplus.messages, surplus.successes, surplus.errors, parted.tokens, parted.tokens,
                         surplus.tokens, surplus.cost, surplus.total_ms, surplus.samples]
               ) WITH ORDINALITY AS f (expected, found, past, surplus, n)
         CROSS JOIN LATERAL (
            SELECT least(greatest(found - expected, 0), greatest(surplus, 0), greatest(found - coalesce(past, 0), 0)) AS part
         ) living
      ) f
 ) parts
 ORDER BY c.user_id, c.agent_id

-- name: counter_differences
-- Pairs of a range whose counters are not the sums of their days, or whose conversations are not those that were noted
-- and those of the opening balance. One statement has one snapshot: what is being counted meanwhile is in all of them
-- or in none.
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
    SELECT user_id, agent_id, pairs.id AS life,
           coalesce(days.figures, array_fill(0::numeric, ARRAY[8]))
           -- The average that a repair leaves: of total and samples it changes only what is too low.
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
SELECT user_id, agent_id, life, expected, found,
       figures.added || expected[11] - found[11] + CASE WHEN %(accept)s THEN 0 ELSE figures.unexplained[11] END AS added,
       NULL::numeric[] AS added_past, figures.unexplained,
       NULL::timestamptz AS first_used_at, NULL::timestamptz AS last_used_at, false AS ended
  FROM differing
 CROSS JOIN LATERAL (
    -- What a column cannot hold is not added. NaN is never unexplained: it is replaced. Conversations of the days are
    -- unexplained only as far as the counter has them, too.
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
-- What a repair has found, and whose row it holds. Temporary and emptied at commit.
CREATE TEMP TABLE IF NOT EXISTS differing (
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    life uuid,
    expected numeric[] NOT NULL,
    found numeric[] NOT NULL,
    -- What the repair adds to the figures: to those of the life that goes on, and to those of the lives that ended.
    added numeric[] NOT NULL,
    added_past numeric[],
    -- What is too much, and nothing says why. No repair takes it away.
    unexplained numeric[] NOT NULL,
    first_used_at timestamptz,
    last_used_at timestamptz,
    -- The pair has lives that ended.
    ended boolean NOT NULL,
    holder uuid
) ON COMMIT DELETE ROWS

-- name: differing_insert
-- In front of the query that finds them.
INSERT INTO differing (
    user_id, agent_id, life, expected, found, added, added_past, unexplained, first_used_at, last_used_at, ended
)

-- name: differing_rows
-- What was found, and which pairs get their row back.
SELECT user_id, agent_id, expected, found, unexplained, life IS NULL AND holder IS NOT NULL AS revived FROM differing

-- name: recreate_pairs
-- Pairs that were used and have lost their row, though nobody ended their life: a life that ended left its sums behind.
INSERT INTO public.user_agents (user_id, agent_id)
SELECT d.user_id, d.agent_id
  FROM differing d JOIN auth.users u ON u.id = d.user_id JOIN public.agents a ON a.id = d.agent_id
 WHERE d.life IS NULL AND NOT d.ended AND d.expected[1] > d.found[1]
 ORDER BY d.user_id, d.agent_id
ON CONFLICT (user_id, agent_id) DO NOTHING

-- name: lock_pairs
-- Lock the rows in key order, like every write to user_agents: from here on nobody counts for these pairs. What is
-- counted up to here went into both sides of a difference, so that it is still the same.
UPDATE differing d SET holder = ua.id
  FROM (
    SELECT ua.id, ua.user_id, ua.agent_id
      FROM public.user_agents ua JOIN differing USING (user_id, agent_id)
     ORDER BY ua.user_id, ua.agent_id FOR NO KEY UPDATE OF ua
  ) AS ua
 WHERE d.user_id = ua.user_id AND d.agent_id = ua.agent_id

-- name: drop_vanished_pairs
-- A life that ended since it was looked at took its sums with it.
DELETE FROM differing WHERE life IS NOT NULL AND holder IS DISTINCT FROM life

-- name: repair_retired_days
-- The difference onto the ended lives.
INSERT INTO public.usage_retired_daily AS p (
    user_id, agent_id, day, usage_count, message_count, success_count, error_count, input_tokens, output_tokens,
    total_tokens_used, total_cost_usd, response_time_total_ms, response_time_samples
)
SELECT user_id, agent_id, %(day)s,
       x.added_past[1], x.added_past[2],
       x.added_past[3], x.added_past[4],
       x.added_past[5], x.added_past[6],
       x.added_past[7], x.added_past[8],
       x.added_past[9], x.added_past[10]
  FROM differing x
 WHERE 0 <> ANY (x.added_past)
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
-- The days that are missing.
INSERT INTO public.usage_daily (user_id, agent_id, day)
SELECT user_id, agent_id, %(day)s FROM differing WHERE 0 < ANY (added) ORDER BY user_id, agent_id
ON CONFLICT (user_id, agent_id, day) DO NOTHING

-- name: repair_day
-- The difference onto the day of the life that goes on.
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
-- What a day has and its events do not explain becomes opening balance: the counters stay as they are.
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
-- Days that hold nothing.
DELETE FROM public.usage_retired_daily d USING differing x
 WHERE d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day = %(day)s
   AND (d.usage_count, d.message_count, d.success_count, d.error_count, d.input_tokens,
        d.output_tokens, d.total_tokens_used, d.total_cost_usd, d.response_time_total_ms, d.response_time_samples,
        d.conversation_count)
       = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

-- name: delete_empty_days
-- Days that hold nothing.
DELETE FROM public.usage_daily d USING differing x
 WHERE d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day = %(day)s
   AND (d.usage_count, d.message_count, d.success_count, d.error_count, d.input_tokens,
        d.output_tokens, d.total_tokens_used, d.total_cost_usd, d.response_time_total_ms, d.response_time_samples,
        d.conversation_count)
       = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)

-- name: repair_times
-- First and last use by the events of the day. The events of a day cannot tell one life from another, so where there
-- was another one they only say what is not known.
UPDATE public.user_agents ua SET
    first_used_at = CASE WHEN x.ended THEN coalesce(ua.first_used_at, x.first_used_at)
                         ELSE least(ua.first_used_at, x.first_used_at) END,
    last_used_at = CASE WHEN x.ended THEN coalesce(ua.last_used_at, x.last_used_at)
                        ELSE greatest(ua.last_used_at, x.last_used_at) END
  FROM differing x
 WHERE ua.id = x.holder AND x.added[1] > 0

-- name: repair_counters
-- What is missing onto the counters. NaN was no number to begin with: nothing can be added to it.
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
 WHERE ua.id = x.holder AND (0 <> ANY (x.added[1:8] || x.added[10]) OR x.expected[9] IS DISTINCT FROM x.found[9])

-- name: insert_missing_conversation_days
-- Where a pair has conversations and no day to count them on, today's.
INSERT INTO public.usage_daily (user_id, agent_id, day)
SELECT user_id, agent_id, (now() AT TIME ZONE 'UTC')::date
  FROM differing x
 WHERE holder IS NOT NULL AND expected[11] > found[11] AND NOT EXISTS (
        SELECT FROM public.usage_daily d
         WHERE d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day > '1970-01-01')
 ORDER BY user_id, agent_id
ON CONFLICT (user_id, agent_id, day) DO NOTHING

-- name: repair_conversations
-- On which day a conversation was first seen is known to nobody else. So the days keep what they have as far as it
-- goes, from the oldest on, and the newest has the rest.
WITH days AS (
    SELECT d.user_id, d.agent_id, d.day, d.conversation_count,
           sum(d.conversation_count) OVER upwards AS reached,
           lead(d.day) OVER upwards IS NULL AS is_newest,
           sum(d.conversation_count) OVER (PARTITION BY d.user_id, d.agent_id) + x.added[11] AS wanted
      FROM public.usage_daily d JOIN differing x USING (user_id, agent_id)
     WHERE x.holder IS NOT NULL AND x.added[11] <> 0
    WINDOW upwards AS (PARTITION BY d.user_id, d.agent_id ORDER BY d.day)
)
UPDATE public.usage_daily d SET
    conversation_count = CASE WHEN days.is_newest THEN days.wanted ELSE least(days.reached, days.wanted) END
                         - least(days.reached - days.conversation_count, days.wanted)
  FROM days
 WHERE d.user_id = days.user_id AND d.agent_id = days.agent_id AND d.day = days.day

-- name: accept_counters
-- What counters have and their days do not explain becomes opening balance. Where it brought an average and no samples,
-- that is all that is known of the latency of the past: it stands for each use, as in rows older than 4.0.0.
WITH latency AS (
    UPDATE public.user_agents ua SET
        response_time_total_ms = ua.avg_response_time_ms * x.unexplained[1], response_time_samples = x.unexplained[1]
      FROM differing x
     WHERE ua.id = x.holder AND x.unexplained[1] > 0 AND ua.avg_response_time_ms >= 0
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
  FROM differing x LEFT JOIN latency l ON l.id = x.holder
 WHERE x.holder IS NOT NULL AND 0 < ANY (x.unexplained)
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
-- Of pairs whose user or agent is gone nothing is left but the sums of ended lives.
SELECT public.usage_retire_pairs(array_agg(user_id), array_agg(agent_id)) FROM differing WHERE holder IS NULL

-- name: restore_times
-- First and last use of rows that were lost, by all events that the ledger has.
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
-- On which days the events of a day were recorded that came through the stream. A call of track_agent_usage, which is
-- in no book, happens when it is recorded.
SELECT (recorded_at AT TIME ZONE 'UTC')::date AS day, count(*) AS events
  FROM public.usage_events
 WHERE occurred_at >= %(day)s::timestamp AT TIME ZONE 'UTC'
   AND occurred_at < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC' AND occurred_at <> recorded_at
 GROUP BY 1

-- name: intake_by_day
-- What the books say of the days that are over, for longer than a transaction can last.
SELECT day, sum(accepted) AS accepted, sum(applied) AS applied, sum(applied + duplicate + quarantined) AS parts
  FROM public.usage_intake
 WHERE day < ((now() - interval '1 hour') AT TIME ZONE 'UTC')::date AND day BETWEEN %(first)s AND %(last)s
 GROUP BY day ORDER BY day
