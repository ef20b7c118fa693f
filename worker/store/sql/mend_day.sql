-- The difference onto the day of the life that goes on.
UPDATE public.usage_daily d SET
    usage_count = d.usage_count + x.added[1],
    message_count = d.message_count + x.added[2],
    success_count = d.success_count + x.added[3],
    error_count = d.error_count + x.added[4],
    input_tokens = d.input_tokens + x.added[5],
    output_tokens = d.output_tokens + x.added[6],
    total_tokens_used = d.total_tokens_used + x.added[7],
    total_cost_usd = d.total_cost_usd + x.added[8],
    response_time_total_ms = d.response_time_total_ms + x.added[9],
    response_time_samples = d.response_time_samples + x.added[10]
  FROM differing x
 WHERE d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day = %(day)s
