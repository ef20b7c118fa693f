-- Totals by any of day, user, agent and model, for `GET /api/v1/usage`. A column by which they are not grouped has one
-- value for all, so that one order serves for pages.

-- name: usage_totals
-- From the roll-up, which is kept; usage of pairs that were deleted since is included while the ledger keeps the day.
WITH days AS (
    SELECT CASE WHEN %(by_day)s::boolean THEN day ELSE '0001-01-01' END AS key_day,
           CASE WHEN %(by_user)s::boolean THEN user_id ELSE '00000000-0000-0000-0000-000000000000' END AS key_user,
           CASE WHEN %(by_agent)s::boolean THEN agent_id ELSE '00000000-0000-0000-0000-000000000000' END AS key_agent, *
      FROM (
        SELECT * FROM public.usage_daily
        UNION ALL
        SELECT * FROM public.usage_retired_daily
      ) AS counted
     WHERE day BETWEEN %(first)s::date AND %(last)s::date
       AND (%(user_id)s::uuid IS NULL OR user_id = %(user_id)s::uuid)
       AND (%(agent_id)s::uuid IS NULL OR agent_id = %(agent_id)s::uuid)
)
SELECT key_day AS day, key_user AS user_id, key_agent AS agent_id, ''::text AS model,
       -- Sums of all pairs may exceed the type of one pair's counter.
       sum({ledger_sums})::numeric AS {ledger_sums}
  FROM days
 WHERE %(after_day)s::date IS NULL
    OR (key_day, key_user, key_agent) > (%(after_day)s::date, %(after_user)s::uuid, %(after_agent)s::uuid)
 GROUP BY 1, 2, 3
 ORDER BY 1, 2, 3
 LIMIT %(rows)s

-- name: usage_totals_by_model
-- From single events, since the roll-up has no models; an empty name is an unknown one. The cost of a model is unknown where
-- no event has one.
WITH uses AS (
    SELECT CASE WHEN %(by_day)s::boolean THEN (occurred_at AT TIME ZONE 'UTC')::date ELSE '0001-01-01' END AS key_day,
           CASE WHEN %(by_user)s::boolean THEN user_id ELSE '00000000-0000-0000-0000-000000000000' END AS key_user,
           CASE WHEN %(by_agent)s::boolean THEN agent_id ELSE '00000000-0000-0000-0000-000000000000' END AS key_agent,
           coalesce(model, '') AS key_model, *
      FROM public.usage_events
     WHERE type = 'usage'
       AND occurred_at >= %(first)s::date::timestamp AT TIME ZONE 'UTC'
       AND occurred_at < (%(last)s::date + 1)::timestamp AT TIME ZONE 'UTC'
       AND (%(user_id)s::uuid IS NULL OR user_id = %(user_id)s::uuid)
       AND (%(agent_id)s::uuid IS NULL OR agent_id = %(agent_id)s::uuid)
)
SELECT key_day AS day, key_user AS user_id, key_agent AS agent_id, key_model AS model,
       count(*) AS usage_count, sum(messages) AS message_count,
       count(*) FILTER (WHERE success) AS success_count, count(*) FILTER (WHERE NOT success) AS error_count,
       sum(tokens)::numeric AS total_tokens_used, sum(cost_usd) AS total_cost_usd,
       coalesce(sum(response_time_ms), 0) AS response_time_total_ms, count(response_time_ms) AS response_time_samples,
       sum(input_tokens)::numeric AS input_tokens, sum(output_tokens)::numeric AS output_tokens,
       coalesce(sum(cached_input_tokens), 0)::numeric AS cached_input_tokens,
       coalesce(sum(cache_write_tokens), 0)::numeric AS cache_write_tokens,
       coalesce(sum(reasoning_tokens), 0)::numeric AS reasoning_tokens
  FROM uses
 WHERE %(after_day)s::date IS NULL
    OR (key_day, key_user, key_agent, key_model)
       > (%(after_day)s::date, %(after_user)s::uuid, %(after_agent)s::uuid, %(after_model)s::text)
 GROUP BY 1, 2, 3, 4
 ORDER BY 1, 2, 3, 4
 LIMIT %(rows)s
