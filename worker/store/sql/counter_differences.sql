-- Pairs of a range whose counters are not the sums of their days, or whose conversations are not those that were noted
-- and those of the opening balance. One statement has one snapshot: what is being counted meanwhile is in all of them
-- or in none.
WITH pairs AS (
    SELECT id, user_id, agent_id, avg_response_time_ms, conversation_count,
           ARRAY[usage_count, message_count, success_count, error_count, total_tokens_used, total_cost_usd,
                 response_time_total_ms, response_time_samples]::numeric[] AS figures
      FROM public.user_agents
     WHERE (user_id, agent_id) >= (%(user_id)s, %(agent_id)s) AND (
            %(end_user)s::uuid IS NULL OR (user_id, agent_id) < (%(end_user)s::uuid, %(end_agent)s::uuid))
), days AS (
    SELECT user_id, agent_id, sum(conversation_count) AS conversations,
           coalesce(sum(conversation_count) FILTER (WHERE day = '1970-01-01'), 0) AS opening,
           round(sum(response_time_total_ms) / nullif(sum(response_time_samples), 0)) AS average,
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
           || coalesce(days.average, avg_response_time_ms::numeric)
           || array_fill(coalesce(opening, 0) + coalesce(noted.conversations, 0), ARRAY[2]) AS expected,
           coalesce(pairs.figures, array_fill(0::numeric, ARRAY[8])) || avg_response_time_ms::numeric
           || ARRAY[coalesce(conversation_count, 0), coalesce(days.conversations, 0)] AS found
      FROM pairs FULL JOIN days USING (user_id, agent_id) FULL JOIN noted USING (user_id, agent_id)
)
SELECT user_id, agent_id, life, expected, found, NULL::timestamptz AS first_used_at, NULL::timestamptz AS last_used_at,
       false AS ended, false AS settled
  FROM checked
 WHERE expected <> found
 ORDER BY user_id, agent_id
 LIMIT %(most)s
