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
