-- The difference onto the day of the life that goes on.
UPDATE public.usage_daily d SET
    usage_count = d.usage_count + x.expected[1] - x.found[1],
    message_count = d.message_count + x.expected[2] - x.found[2],
    success_count = d.success_count + x.expected[3] - x.found[3],
    error_count = d.error_count + x.expected[4] - x.found[4],
    input_tokens = d.input_tokens + x.expected[5] - x.found[5],
    output_tokens = d.output_tokens + x.expected[6] - x.found[6],
    total_tokens_used = d.total_tokens_used + x.expected[7] - x.found[7],
    total_cost_usd = d.total_cost_usd + x.expected[8] - x.found[8],
    response_time_total_ms = d.response_time_total_ms + x.expected[9] - x.found[9],
    response_time_samples = d.response_time_samples + x.expected[10] - x.found[10]
  FROM differing x
 WHERE d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day = %(day)s AND NOT x.blames_past
