-- What ended lives lack, or have too much where the life that goes on does not have it.
INSERT INTO public.usage_past_daily AS p (
    user_id, agent_id, day, usage_count, message_count, success_count, error_count, input_tokens, output_tokens,
    total_tokens_used, total_cost_usd, response_time_total_ms, response_time_samples
)
SELECT x.user_id, x.agent_id, %(day)s,
       CASE WHEN d.day IS NULL THEN x.expected[1] - x.found[1]
            ELSE least(d.usage_count + x.expected[1] - x.found[1], 0) END,
       CASE WHEN d.day IS NULL THEN x.expected[2] - x.found[2]
            ELSE least(d.message_count + x.expected[2] - x.found[2], 0) END,
       CASE WHEN d.day IS NULL THEN x.expected[3] - x.found[3]
            ELSE least(d.success_count + x.expected[3] - x.found[3], 0) END,
       CASE WHEN d.day IS NULL THEN x.expected[4] - x.found[4]
            ELSE least(d.error_count + x.expected[4] - x.found[4], 0) END,
       CASE WHEN d.day IS NULL THEN x.expected[5] - x.found[5]
            ELSE least(d.input_tokens + x.expected[5] - x.found[5], 0) END,
       CASE WHEN d.day IS NULL THEN x.expected[6] - x.found[6]
            ELSE least(d.output_tokens + x.expected[6] - x.found[6], 0) END,
       CASE WHEN d.day IS NULL THEN x.expected[7] - x.found[7]
            ELSE least(d.total_tokens_used + x.expected[7] - x.found[7], 0) END,
       CASE WHEN d.day IS NULL THEN x.expected[8] - x.found[8]
            ELSE least(d.total_cost_usd + x.expected[8] - x.found[8], 0) END,
       CASE WHEN d.day IS NULL THEN x.expected[9] - x.found[9]
            ELSE least(d.response_time_total_ms + x.expected[9] - x.found[9], 0) END,
       CASE WHEN d.day IS NULL THEN x.expected[10] - x.found[10]
            ELSE least(d.response_time_samples + x.expected[10] - x.found[10], 0) END
  FROM differing x
  LEFT JOIN public.usage_daily d ON d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day = %(day)s
 WHERE d.day IS NULL OR least(
           d.usage_count + x.expected[1] - x.found[1], d.message_count + x.expected[2] - x.found[2],
           d.success_count + x.expected[3] - x.found[3], d.error_count + x.expected[4] - x.found[4],
           d.input_tokens + x.expected[5] - x.found[5], d.output_tokens + x.expected[6] - x.found[6],
           d.total_tokens_used + x.expected[7] - x.found[7], d.total_cost_usd + x.expected[8] - x.found[8],
           d.response_time_total_ms + x.expected[9] - x.found[9], d.response_time_samples + x.expected[10] - x.found[10]) < 0
 ORDER BY x.user_id, x.agent_id
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
