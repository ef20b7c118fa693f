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
        SELECT * FROM public.usage_past_daily WHERE day = %(day)s
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
      FROM public.usage_past_daily p
     WHERE p.user_id = c.user_id AND p.agent_id = c.agent_id AND p.day = %(day)s LIMIT 1
 ) past ON true
 CROSS JOIN LATERAL (
    -- OFFSET: looked up once, not wherever it is used.
    SELECT EXISTS (SELECT FROM public.usage_past_daily p WHERE p.user_id = c.user_id AND p.agent_id = c.agent_id) AS ended
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
