-- Days that hold nothing.
DELETE FROM public.usage_daily d USING differing x
 WHERE d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day = %(day)s
   AND (d.usage_count, d.message_count, d.success_count, d.error_count, d.input_tokens,
        d.output_tokens, d.total_tokens_used, d.total_cost_usd, d.response_time_total_ms, d.response_time_samples,
        d.conversation_count)
       = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
