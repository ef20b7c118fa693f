-- Pairs whose counters are not the sum of their days. Every difference is a fault.
WITH daily AS (
    SELECT user_id, agent_id, sum(usage_count) AS usage_count, sum(message_count) AS message_count,
           sum(conversation_count) AS conversation_count, sum(success_count) AS success_count,
           sum(error_count) AS error_count, sum(total_tokens_used) AS total_tokens_used,
           sum(total_cost_usd) AS total_cost_usd, sum(response_time_total_ms) AS response_time_total_ms,
           sum(response_time_samples) AS response_time_samples
      FROM public.usage_daily
     GROUP BY user_id, agent_id
)
SELECT user_id, agent_id
  FROM public.user_agents ua FULL JOIN daily d USING (user_id, agent_id)
 WHERE (coalesce(ua.usage_count, 0), coalesce(ua.message_count, 0), coalesce(ua.conversation_count, 0),
        coalesce(ua.success_count, 0), coalesce(ua.error_count, 0), coalesce(ua.total_tokens_used, 0),
        coalesce(ua.total_cost_usd, 0), coalesce(ua.response_time_total_ms, 0), coalesce(ua.response_time_samples, 0))
       IS DISTINCT FROM
       (coalesce(d.usage_count, 0), coalesce(d.message_count, 0), coalesce(d.conversation_count, 0),
        coalesce(d.success_count, 0), coalesce(d.error_count, 0), coalesce(d.total_tokens_used, 0),
        coalesce(d.total_cost_usd, 0), coalesce(d.response_time_total_ms, 0), coalesce(d.response_time_samples, 0))
