-- Where COPY puts the totals of one day. Temporary and emptied at commit.
CREATE TEMP TABLE IF NOT EXISTS batch_totals (
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    usage_count integer NOT NULL,
    message_count bigint NOT NULL,
    conversation_count bigint NOT NULL,
    success_count bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    tokens bigint NOT NULL,
    cost_usd numeric NOT NULL,
    response_time_total_ms bigint NOT NULL,
    response_time_samples bigint NOT NULL,
    first_used_at timestamptz,
    last_used_at timestamptz,
    last_conversation_id uuid,
    last_conversation_at timestamptz,
    rating numeric,
    rated_at timestamptz
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS batch_conversations (
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    conversation_id uuid NOT NULL
) ON COMMIT DELETE ROWS
