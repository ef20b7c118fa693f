-- Repair what reconcile.sql finds: the pairs that differ are noted first, then locked, then repaired.

-- name: differing
-- The pairs that a repair has found. Temporary and emptied at commit.
CREATE TEMP TABLE IF NOT EXISTS differing (
    user_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    -- The pair's row of user_agents when it was compared, and when it was locked.
    row_id uuid,
    locked_id uuid,
    -- The pair has retired rows.
    has_retired boolean NOT NULL,
    -- Figures by name.
    expected jsonb NOT NULL,
    found jsonb NOT NULL,
    -- The amounts that the repair adds to the days or counters of the pair, and to its retired rows.
    added jsonb NOT NULL,
    added_retired jsonb,
    -- Unexplained excess, which no repair lowers.
    unexplained jsonb NOT NULL,
    -- The amounts that become opening balance when they are accepted.
    opening jsonb NOT NULL DEFAULT '{}',
    first_used_at timestamptz,
    last_used_at timestamptz
) ON COMMIT DELETE ROWS

-- name: differing_insert
-- Precedes the query that finds the pairs.
INSERT INTO differing (
    user_id, agent_id, row_id, expected, found, added, added_retired, unexplained, has_retired
)

-- name: differing_times
-- The first and last use on the day, where uses are missing. It reads the whole day, so it runs before rows are locked.
UPDATE differing x SET first_used_at = e.first_used_at, last_used_at = e.last_used_at
  FROM (
    SELECT user_id, agent_id, min(occurred_at) AS first_used_at, max(occurred_at) AS last_used_at
      FROM public.usage_events JOIN differing USING (user_id, agent_id)
     WHERE occurred_at >= %(day)s::timestamp AT TIME ZONE 'UTC' AND type = 'usage'
       AND occurred_at < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC'
       AND (added ->> 'usage_count')::numeric > 0
     GROUP BY user_id, agent_id
  ) AS e
 WHERE x.user_id = e.user_id AND x.agent_id = e.agent_id

-- name: lost_times
-- The first and last use of the pairs that `recreate_pairs` recreates, by all events. It reads the whole ledger, so it runs
-- before rows are locked, and only where there are such pairs; what is counted meanwhile sets times itself.
WITH lost AS MATERIALIZED (
    SELECT user_id, agent_id FROM differing
     WHERE row_id IS NULL AND NOT has_retired
       AND (expected ->> 'usage_count')::numeric > (found ->> 'usage_count')::numeric
)
UPDATE differing x SET first_used_at = e.first_used_at, last_used_at = e.last_used_at
  FROM (
    SELECT user_id, agent_id, min(occurred_at) AS first_used_at, max(occurred_at) AS last_used_at
      FROM public.usage_events JOIN lost USING (user_id, agent_id)
     WHERE type = 'usage' AND EXISTS (SELECT FROM lost)
     GROUP BY user_id, agent_id
  ) AS e
 WHERE x.user_id = e.user_id AND x.agent_id = e.agent_id

-- name: differing_rows
-- The differences.
SELECT user_id, agent_id, expected, found, unexplained FROM differing

-- name: recreate_pairs
-- Recreate the rows of used pairs that were lost without being retired; a retired pair has retired rows.
INSERT INTO public.user_agents (user_id, agent_id)
SELECT d.user_id, d.agent_id
  FROM differing d JOIN auth.users u ON u.id = d.user_id JOIN public.agents a ON a.id = d.agent_id
 WHERE d.row_id IS NULL AND NOT d.has_retired
   AND (d.expected ->> 'usage_count')::numeric > (d.found ->> 'usage_count')::numeric
 ORDER BY d.user_id, d.agent_id
ON CONFLICT (user_id, agent_id) DO NOTHING

-- name: lock_pairs
-- Lock the rows in key order, like every write to user_agents: from here on nothing is counted for these pairs. Events
-- counted since the comparison were added to both sides of a difference, which is therefore still the same.
UPDATE differing d SET locked_id = ua.id
  FROM (
    SELECT ua.id, ua.user_id, ua.agent_id
      FROM public.user_agents ua JOIN differing USING (user_id, agent_id)
     ORDER BY ua.user_id, ua.agent_id FOR NO KEY UPDATE OF ua
  ) AS ua
 WHERE d.user_id = ua.user_id AND d.agent_id = ua.agent_id

-- name: drop_vanished_pairs
-- The days of a pair that was retired since the comparison were retired with it.
DELETE FROM differing WHERE row_id IS NOT NULL AND locked_id IS DISTINCT FROM row_id

-- name: insert_missing_retired_days
-- Retired rows that do not exist yet.
INSERT INTO public.usage_retired_daily (user_id, agent_id, day)
SELECT user_id, agent_id, %(day)s
  FROM differing
 WHERE added_retired @? '$.* ? (@ != 0 || @ == "NaN")'
 ORDER BY user_id, agent_id
ON CONFLICT (day, user_id, agent_id) DO NOTHING

-- name: repair_retired_days
-- Add the difference to retired rows.
UPDATE public.usage_retired_daily d SET
    {ledger_sums} = d.{ledger_sums} + (x.added_retired ->> '{ledger_sums}')::numeric
  FROM differing x
 WHERE d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day = %(day)s
   AND x.added_retired @? '$.* ? (@ != 0 || @ == "NaN")'

-- name: insert_missing_days
-- Days, or opening balances, that do not exist yet.
INSERT INTO public.usage_daily (user_id, agent_id, day)
SELECT user_id, agent_id, %(day)s
  FROM differing
 WHERE CASE WHEN %(is_opening)s THEN opening ELSE added END @? '$.* ? (@ > 0 || @ == "NaN")'
 ORDER BY user_id, agent_id
ON CONFLICT (user_id, agent_id, day) DO NOTHING

-- name: repair_days
-- Add the difference to the day, or the accepted amount to the opening balance. Neither has every figure: counters have
-- no parts of the tokens, and the ledger does not record on which day a conversation was new.
UPDATE public.usage_daily d SET
    {daily} = d.{daily} + coalesce((x.figures ->> '{daily}')::numeric, 0)
  FROM (
    SELECT user_id, agent_id, CASE WHEN %(is_opening)s THEN opening ELSE added END AS figures FROM differing
  ) AS x
 WHERE d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day = %(day)s
   AND x.figures @? '$.* ? (@ != 0 || @ == "NaN")'

-- name: accept_day
-- Move the part of a day that its events do not explain to the opening balance, so that the counters do not change.
UPDATE differing SET opening = unexplained

-- name: delete_empty_retired_days
-- Retired rows that hold zeros only.
DELETE FROM public.usage_retired_daily d USING differing x
 WHERE d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day = %(day)s
   AND NOT to_jsonb(d) @? '$.* ? (@ != 0 || @ == "NaN")'

-- name: delete_empty_days
-- Days that hold zeros only.
DELETE FROM public.usage_daily d USING differing x
 WHERE d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day = %(day)s
   AND NOT to_jsonb(d) @? '$.* ? (@ != 0 || @ == "NaN")'

-- name: repair_times
-- First and last use by the events that differing_times or lost_times has read. Events do not tell a retired row from the
-- live one, so where there are retired rows, only unknown times are set.
UPDATE public.user_agents ua SET
    first_used_at = CASE WHEN x.has_retired THEN coalesce(ua.first_used_at, x.first_used_at)
                         ELSE least(ua.first_used_at, x.first_used_at) END,
    last_used_at = CASE WHEN x.has_retired THEN coalesce(ua.last_used_at, x.last_used_at)
                        ELSE greatest(ua.last_used_at, x.last_used_at) END
  FROM differing x
 WHERE ua.id = x.locked_id AND x.last_used_at IS NOT NULL

-- name: repair_counters
-- Add what is missing to the counters.
UPDATE public.user_agents ua SET
    {counters} = coalesce(ua.{counters}, 0) + (x.added ->> '{counters}')::numeric,
    avg_response_time_ms = coalesce(
        CASE WHEN x.samples > 0 THEN least(round(x.total_ms / x.samples), 2147483647) END, ua.avg_response_time_ms)
  FROM (
    SELECT d.*, coalesce(u.response_time_total_ms, 0) + (d.added ->> 'response_time_total_ms')::numeric AS total_ms,
           coalesce(u.response_time_samples, 0) + (d.added ->> 'response_time_samples')::numeric AS samples
      FROM differing d JOIN public.user_agents u ON u.id = d.locked_id
  ) AS x
 WHERE ua.id = x.locked_id AND (
        x.added - 'usage_daily.conversation_count' @? '$.* ? (@ != 0 || @ == "NaN")'
        OR x.expected -> 'avg_response_time_ms' IS DISTINCT FROM x.found -> 'avg_response_time_ms')

-- name: insert_missing_conversation_days
-- Insert today for a pair that has conversations and no day to count them on.
INSERT INTO public.usage_daily (user_id, agent_id, day)
SELECT user_id, agent_id, (now() AT TIME ZONE 'UTC')::date
  FROM differing x
 WHERE locked_id IS NOT NULL
   AND (expected ->> 'usage_daily.conversation_count')::numeric > (found ->> 'usage_daily.conversation_count')::numeric
   AND NOT EXISTS (
        SELECT FROM public.usage_daily d
         WHERE d.user_id = x.user_id AND d.agent_id = x.agent_id AND d.day > '1970-01-01')
 ORDER BY user_id, agent_id
ON CONFLICT (user_id, agent_id, day) DO NOTHING

-- name: repair_conversations
-- Only usage_daily records on which day a conversation was new. So the days keep their numbers, from the oldest on, up
-- to the number of recorded conversations, and the newest gets the rest.
WITH days AS (
    SELECT d.user_id, d.agent_id, d.day, d.conversation_count,
           sum(d.conversation_count) OVER upwards AS reached,
           lead(d.day) OVER upwards IS NULL AS is_newest,
           sum(d.conversation_count) OVER (PARTITION BY d.user_id, d.agent_id) + x.added AS wanted
      FROM public.usage_daily d
      JOIN (
        SELECT user_id, agent_id, (added ->> 'usage_daily.conversation_count')::numeric AS added
          FROM differing WHERE locked_id IS NOT NULL
      ) AS x USING (user_id, agent_id)
     WHERE x.added <> 0
    WINDOW upwards AS (PARTITION BY d.user_id, d.agent_id ORDER BY d.day)
)
UPDATE public.usage_daily d SET
    conversation_count = CASE WHEN days.is_newest THEN days.wanted ELSE least(days.reached, days.wanted) END
                         - least(days.reached - days.conversation_count, days.wanted)
  FROM days
 WHERE d.user_id = days.user_id AND d.agent_id = days.agent_id AND d.day = days.day

-- name: accept_counters
-- Add the part of the counters that their days do not explain to the opening balance. Where only an average of past
-- latencies is known, without samples, it counts once for each use, as in rows older than 4.0.0.
WITH latency AS (
    UPDATE public.user_agents ua SET
        response_time_total_ms = ua.avg_response_time_ms * (x.unexplained ->> 'usage_count')::numeric,
        response_time_samples = (x.unexplained ->> 'usage_count')::numeric
      FROM differing x
     WHERE ua.id = x.locked_id AND (x.unexplained ->> 'usage_count')::numeric > 0 AND ua.avg_response_time_ms >= 0
       AND (coalesce(ua.response_time_total_ms, 0), coalesce(ua.response_time_samples, 0)) = (0, 0)
    RETURNING ua.id, ua.response_time_total_ms, ua.response_time_samples
)
UPDATE differing x
   SET opening = unexplained || coalesce((SELECT to_jsonb(l) - 'id' FROM latency l WHERE l.id = x.locked_id), '{}')
 WHERE locked_id IS NOT NULL

-- name: retire_pairs
-- Retire the pairs whose user or agent is gone.
SELECT public.usage_retire_pairs(array_agg(user_id), array_agg(agent_id)) FROM differing WHERE locked_id IS NULL
