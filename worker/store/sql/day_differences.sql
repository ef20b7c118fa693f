-- Pairs whose sums of one day are not those of its events, the life that goes on and those that have ended together.
-- One statement has one snapshot: what is being counted meanwhile is in both or in neither. A day that leaves the ledger
-- meanwhile has no differences.
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
)
-- Subqueries instead of joins: they are asked for the few pairs that differ.
SELECT c.user_id, c.agent_id,
       (SELECT ua.id FROM public.user_agents ua WHERE ua.user_id = c.user_id AND ua.agent_id = c.agent_id) AS life,
       c.expected, c.found, c.first_used_at, c.last_used_at,
       EXISTS (SELECT FROM public.usage_past_daily p WHERE p.user_id = c.user_id AND p.agent_id = c.agent_id) AS ended,
       EXISTS (SELECT FROM public.user_agents ua JOIN public.usage_daily d USING (user_id, agent_id)
                WHERE ua.user_id = c.user_id AND ua.agent_id = c.agent_id
                GROUP BY ua.id
               HAVING sum(d.usage_count) = ua.usage_count AND sum(d.total_tokens_used) = ua.total_tokens_used
                  AND sum(d.total_cost_usd) = ua.total_cost_usd AND sum(d.error_count) = ua.error_count) AS settled
  FROM checked c
 WHERE c.expected <> c.found AND EXISTS (
        SELECT FROM pg_catalog.pg_inherits
         WHERE inhparent = 'public.usage_events'::regclass AND NOT inhdetachpending
           AND inhrelid = to_regclass('public.usage_events_' || to_char(%(day)s::date, 'YYYYMMDD')))
 ORDER BY c.user_id, c.agent_id
 LIMIT %(most)s
