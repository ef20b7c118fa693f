-- Users whose pairs were all deleted some weeks ago, after one use each on a day that the ledger still has. Days and
-- conversations lie in another order than their pairs, as they do in life.
WITH day AS (
    SELECT (now() AT TIME ZONE 'UTC')::date - 40 AS day
), partition AS (
    SELECT public.usage_events_ensure_day(day) FROM day
), users AS (
    INSERT INTO auth.users (id) SELECT gen_random_uuid() FROM generate_series(1, %(users)s), partition RETURNING id
), pairs AS (
    INSERT INTO public.user_agents (
        user_id, agent_id, deleted_at, usage_count, message_count, success_count, conversation_count
    )
    SELECT u.id, a.id, now() - (31 + 9 * random()) * interval '1 day', 1, 1, 1, 1
      FROM users u CROSS JOIN public.agents a
    RETURNING user_id, agent_id
), days AS (
    INSERT INTO public.usage_daily (
        user_id, agent_id, day, usage_count, message_count, success_count, conversation_count
    )
    SELECT user_id, agent_id, day, 1, 1, 1, 1 FROM pairs, day ORDER BY random()
), conversations AS (
    INSERT INTO public.user_agent_conversations SELECT user_id, agent_id, gen_random_uuid() FROM pairs ORDER BY random()
)
SELECT count(*) AS pairs FROM pairs
