-- One day's totals onto the counters and the daily roll-up, everything in key order, so that concurrent batches queue
-- up instead of deadlocking. The newest rating and conversation win by the event's time, at equal times by the greater
-- value. The time of change is what the trigger would say, which is then not called.
--
-- One statement, one snapshot: a pair that is deleted after we looked which of its conversations are known is not
-- updated, which the caller sees; a conversation that another batch opened after we looked fails the insert.
WITH totals AS MATERIALIZED (
    SELECT t.*,
           ARRAY(SELECT named.id FROM (SELECT unnest(t.conversations) AS id) named
                  -- Scalar for the sake of its plan: a look into the index each.
                  WHERE (SELECT true FROM public.user_agent_conversations c
                          WHERE c.user_id = t.user_id AND c.agent_id = t.agent_id AND c.conversation_id = named.id
                        ) IS NULL) AS opened
      FROM (SELECT * FROM batch_totals ORDER BY user_id, agent_id) t
), conversations AS (
    INSERT INTO public.user_agent_conversations (user_id, agent_id, conversation_id)
    SELECT user_id, agent_id, unnest(opened) FROM totals
), daily AS (
    INSERT INTO public.usage_daily AS d (
        user_id, agent_id, day, usage_count, message_count, conversation_count, success_count, error_count,
        input_tokens, output_tokens, total_tokens_used, total_cost_usd, response_time_total_ms, response_time_samples)
    SELECT user_id, agent_id, %(day)s::date, usage_count, message_count, cardinality(opened), success_count,
           usage_count - success_count, input_tokens, output_tokens, tokens, cost_usd, response_time_total_ms,
           response_time_samples
      FROM totals
     WHERE usage_count > 0
    ON CONFLICT (user_id, agent_id, day) DO UPDATE SET
        usage_count = d.usage_count + excluded.usage_count,
        message_count = d.message_count + excluded.message_count,
        conversation_count = d.conversation_count + excluded.conversation_count,
        success_count = d.success_count + excluded.success_count,
        error_count = d.error_count + excluded.error_count,
        input_tokens = d.input_tokens + excluded.input_tokens,
        output_tokens = d.output_tokens + excluded.output_tokens,
        total_tokens_used = d.total_tokens_used + excluded.total_tokens_used,
        total_cost_usd = d.total_cost_usd + excluded.total_cost_usd,
        response_time_total_ms = d.response_time_total_ms + excluded.response_time_total_ms,
        response_time_samples = d.response_time_samples + excluded.response_time_samples
)
UPDATE public.user_agents ua SET
    updated_at = now(),
    usage_count = ua.usage_count + t.usage_count,
    message_count = ua.message_count + t.message_count,
    conversation_count = ua.conversation_count + cardinality(t.opened),
    success_count = ua.success_count + t.success_count,
    error_count = ua.error_count + t.usage_count - t.success_count,
    total_tokens_used = ua.total_tokens_used + t.tokens,
    total_cost_usd = ua.total_cost_usd + t.cost_usd,
    response_time_total_ms = ua.response_time_total_ms + t.response_time_total_ms,
    response_time_samples = ua.response_time_samples + t.response_time_samples,
    avg_response_time_ms = round((ua.response_time_total_ms + t.response_time_total_ms)::numeric
                                 / nullif(ua.response_time_samples + t.response_time_samples, 0)),
    first_used_at = least(ua.first_used_at, t.first_used_at, t.last_used_at),
    last_used_at = greatest(ua.last_used_at, t.last_used_at),
    last_conversation_id = CASE
        WHEN ua.last_conversation_at IS NULL
          OR (t.last_conversation_at, t.conversations[1]) > (ua.last_conversation_at, ua.last_conversation_id)
        THEN coalesce(t.conversations[1], ua.last_conversation_id)
        ELSE ua.last_conversation_id END,
    last_conversation_at = greatest(ua.last_conversation_at, t.last_conversation_at),
    user_rating = CASE
        WHEN ua.last_rating_at IS NULL OR (t.rated_at, t.rating) > (ua.last_rating_at, ua.user_rating)
        THEN coalesce(t.rating, ua.user_rating)
        ELSE ua.user_rating END,
    last_rating_at = greatest(ua.last_rating_at, t.rated_at)
  FROM totals t
 WHERE ua.user_id = t.user_id AND ua.agent_id = t.agent_id
