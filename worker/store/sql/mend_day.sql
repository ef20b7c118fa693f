-- The difference onto the day of the life that goes on; what it does not have cannot be taken from it.
UPDATE public.usage_daily d SET
    usage_count = greatest(d.usage_count + x.expected[1] - x.found[1], 0),
    message_count = greatest(d.message_count + x.expected[2] - x.found[2], 0),
    success_count = greatest(d.success_count + x.expected[3] - x.found[3], 0),
    error_count = greatest(d.error_count + x.expected[4] - x.found[4], 0),
    input_tokens = greatest(d.input_tokens + x.expected[5] - x.found[5], 0),
    output_tokens = greatest(d.output_tokens + x.expected[6] - x.found[6], 0),
    total_tokens_used = greatest(d.total_tokens_used + x.expected[7] - x.found[7], 0),
    total_cost_usd = greatest(d.total_cost_usd + x.expected[8] - x.found[8], 0),
    response_time_total_ms = greatest(d.response_time_total_ms + x.expected[9] - x.found[9], 0),
    response_time_samples = greatest(d.response_time_samples + x.expected[10] - x.found[10], 0)
  FROM differing x
 WHERE d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day = %(day)s
