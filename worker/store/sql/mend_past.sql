-- The difference onto the ended lives.
INSERT INTO public.usage_past_daily AS p (
    user_id, agent_id, day, usage_count, message_count, success_count, error_count, input_tokens, output_tokens,
    total_tokens_used, total_cost_usd, response_time_total_ms, response_time_samples
)
SELECT user_id, agent_id, %(day)s,
       x.added_past[1], x.added_past[2],
       x.added_past[3], x.added_past[4],
       x.added_past[5], x.added_past[6],
       x.added_past[7], x.added_past[8],
       x.added_past[9], x.added_past[10]
  FROM differing x
 WHERE 0 <> ANY (x.added_past)
 ORDER BY user_id, agent_id
ON CONFLICT (day, user_id, agent_id) DO UPDATE SET
    usage_count = p.usage_count + excluded.usage_count,
    message_count = p.message_count + excluded.message_count,
    success_count = p.success_count + excluded.success_count,
    error_count = p.error_count + excluded.error_count,
    input_tokens = p.input_tokens + excluded.input_tokens,
    output_tokens = p.output_tokens + excluded.output_tokens,
    total_tokens_used = p.total_tokens_used + excluded.total_tokens_used,
    total_cost_usd = p.total_cost_usd + excluded.total_cost_usd,
    response_time_total_ms = p.response_time_total_ms + excluded.response_time_total_ms,
    response_time_samples = p.response_time_samples + excluded.response_time_samples
