-- What a day has and its events do not explain becomes opening balance: the counters stay as they are.
INSERT INTO public.usage_daily AS d (
    user_id, agent_id, day, usage_count, message_count, success_count, error_count, input_tokens, output_tokens,
    total_tokens_used, total_cost_usd, response_time_total_ms, response_time_samples
)
SELECT user_id, agent_id, '1970-01-01', x.unexplained[1], x.unexplained[2], x.unexplained[3], x.unexplained[4],
       x.unexplained[5], x.unexplained[6], x.unexplained[7], x.unexplained[8], x.unexplained[9], x.unexplained[10]
  FROM differing x
 WHERE 0 < ANY (x.unexplained)
 ORDER BY user_id, agent_id
ON CONFLICT (user_id, agent_id, day) DO UPDATE SET
    usage_count = d.usage_count + excluded.usage_count,
    message_count = d.message_count + excluded.message_count,
    success_count = d.success_count + excluded.success_count,
    error_count = d.error_count + excluded.error_count,
    input_tokens = d.input_tokens + excluded.input_tokens,
    output_tokens = d.output_tokens + excluded.output_tokens,
    total_tokens_used = d.total_tokens_used + excluded.total_tokens_used,
    total_cost_usd = d.total_cost_usd + excluded.total_cost_usd,
    response_time_total_ms = d.response_time_total_ms + excluded.response_time_total_ms,
    response_time_samples = d.response_time_samples + excluded.response_time_samples
