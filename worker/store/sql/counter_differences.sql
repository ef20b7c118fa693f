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
