-- Where COPY puts the totals of one day. Temporary and emptied at commit.
CREATE TEMP TABLE IF NOT EXISTS batch_totals (
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    usage_count integer NOT NULL,
    message_count bigint NOT NULL,
    success_count bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    tokens bigint NOT NULL,
    cost_usd numeric NOT NULL,
    response_time_total_ms bigint NOT NULL,
    response_time_samples bigint NOT NULL,
    -- NULL where it is the last use, too: a time is dear to parse.
    first_used_at timestamptz,
    last_used_at timestamptz,
    -- The newest one first.
    conversations uuid[],
    last_conversation_at timestamptz,
    rating numeric,
    rated_at timestamptz
) ON COMMIT DELETE ROWS
