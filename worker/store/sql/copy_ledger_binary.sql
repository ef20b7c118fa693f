-- The ceiling of the benchmark.
COPY public.usage_events (event_id, occurred_at, type, user_id, agent_id, messages, input_tokens, output_tokens, tokens,
    cost_usd, response_time_ms, success, conversation_id, model, rating) FROM STDIN (FORMAT BINARY)
