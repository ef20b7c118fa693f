-- The difference onto the counters.
UPDATE public.user_agents ua SET
    usage_count = ua.usage_count + x.expected[1] - x.found[1],
    message_count = ua.message_count + x.expected[2] - x.found[2],
    success_count = ua.success_count + x.expected[3] - x.found[3],
    error_count = ua.error_count + x.expected[4] - x.found[4],
    total_tokens_used = ua.total_tokens_used + x.expected[5] - x.found[5],
    total_cost_usd = ua.total_cost_usd + x.expected[6] - x.found[6],
    response_time_total_ms = ua.response_time_total_ms + x.expected[7] - x.found[7],
    response_time_samples = ua.response_time_samples + x.expected[8] - x.found[8],
    avg_response_time_ms = coalesce(
        round((ua.response_time_total_ms + x.expected[7] - x.found[7])
              / nullif(ua.response_time_samples + x.expected[8] - x.found[8], 0)),
        ua.avg_response_time_ms),
    conversation_count = ua.conversation_count + x.expected[10] - x.found[10]
  FROM differing x
 WHERE ua.id = x.holder
