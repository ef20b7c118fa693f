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
