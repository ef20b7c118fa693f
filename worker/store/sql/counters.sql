-- Every column of user_agents that events decide, for comparison with an oracle.
SELECT user_id, agent_id, usage_count, message_count, conversation_count, success_count, error_count, total_tokens_used,
       total_cost_usd, response_time_total_ms, response_time_samples, avg_response_time_ms, first_used_at, last_used_at,
       user_rating, last_rating_at, quality_score
  FROM public.user_agents
