-- Correct an event of the ledger, and everything that it was counted in.
--
-- Locks: the event, the table of conversations if one is forgotten, the pair, and only then writes. A batch that holds the pair
-- and meets the event again finds it locked, not updated: it is a duplicate at once, and nobody waits for the other.

-- name: events_of_id
-- An event at each of its times, the oldest first; an id may have been used again. Its primary key leads to it in each
-- partition.
SELECT
    {ledger}
  FROM public.usage_events WHERE event_id = %(event_id)s ORDER BY occurred_at

-- name: lock_event
-- The event, with all of its row as JSON.
SELECT
       {ledger},
       to_jsonb(e)::text AS document, recorded_at
  FROM public.usage_events e
 WHERE event_id = %(event_id)s AND occurred_at = %(occurred_at)s
   FOR UPDATE OF e

-- name: pair_of_event
-- What the correction needs of the pair's row.
SELECT id, usage_count, last_conversation_id, last_conversation_at
  FROM public.user_agents WHERE user_id = %(user_id)s AND agent_id = %(agent_id)s

-- name: lock_pair_of_event
-- The same, locked like a batch does: nothing is counted for the pair until the end of the transaction.
SELECT id, usage_count, last_conversation_id, last_conversation_at
  FROM public.user_agents WHERE user_id = %(user_id)s AND agent_id = %(agent_id)s
   FOR NO KEY UPDATE

-- name: deleted_at
-- When the last row of the pair was deleted, by our clock; created_at of the present row is a client's.
SELECT max(created_at) AS deleted_at
  FROM public.user_agent_history
 WHERE user_id = %(user_id)s AND agent_id = %(agent_id)s AND action IN ('delete', 'purge')

-- name: used_days
-- The days on which the pair was used, as far as the ledger has them, the newest first.
SELECT day, usage_count
  FROM public.usage_daily
 WHERE user_id = %(user_id)s AND agent_id = %(agent_id)s AND usage_count > 0
   AND EXISTS (
        SELECT FROM pg_catalog.pg_inherits
         WHERE inhparent = 'public.usage_events'::regclass AND NOT inhdetachpending
           AND inhrelid = to_regclass('public.usage_events_' || to_char(day, 'YYYYMMDD')))
 ORDER BY day DESC

-- name: conversations_of_day
-- The pair's uses of a day: how many, whether another one than the event names the conversation, and the newest conversation of
-- the others. No index leads to them; a day is read in a third of a second for each million events.
SELECT count(*) AS uses,
       coalesce(bool_or(conversation_id = %(conversation_id)s AND is_other), false) AS is_elsewhere,
       max(occurred_at) FILTER (WHERE conversation_id IS NOT NULL AND is_other) AS newest_at,
       (array_agg(conversation_id ORDER BY occurred_at DESC, conversation_id DESC)
           FILTER (WHERE conversation_id IS NOT NULL AND is_other))[1] AS newest_id
  FROM (
    SELECT occurred_at, conversation_id, (event_id, occurred_at) <> (%(event_id)s, %(occurred_at)s) AS is_other
      FROM public.usage_events
     WHERE user_id = %(user_id)s AND agent_id = %(agent_id)s AND type = 'usage'
       AND occurred_at >= %(day)s::date::timestamp AT TIME ZONE 'UTC'
       AND occurred_at < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC'
       AND recorded_at > coalesce((SELECT max(created_at) FROM public.user_agent_history
                                    WHERE user_id = %(user_id)s AND agent_id = %(agent_id)s AND action IN ('delete', 'purge')),
                                  '-infinity')
  ) AS uses

-- name: keep_batches_out
-- A batch reads which conversations are known before it waits for the pair: it would not open one again that is forgotten
-- meanwhile. So wait for the batches that have begun to count, and let others begin after the end of this transaction.
LOCK TABLE public.user_agent_conversations IN SHARE ROW EXCLUSIVE MODE

-- name: open_conversation
-- As for a batch: a conversation of a pair is counted once.
INSERT INTO public.user_agent_conversations (user_id, agent_id, conversation_id)
VALUES (%(user_id)s, %(agent_id)s, %(conversation_id)s)
ON CONFLICT DO NOTHING

-- name: forget_conversation
-- A conversation that no event of the pair names any more.
DELETE FROM public.user_agent_conversations
 WHERE user_id = %(user_id)s AND agent_id = %(agent_id)s AND conversation_id = %(conversation_id)s

-- name: forget_conversation_day
-- It is not kept on which day a conversation was new: take it from the event's day, or else from the newest day that has one.
UPDATE public.usage_daily SET conversation_count = conversation_count - 1
 WHERE user_id = %(user_id)s AND agent_id = %(agent_id)s AND day = (
        SELECT day FROM public.usage_daily
         WHERE user_id = %(user_id)s AND agent_id = %(agent_id)s AND conversation_count > 0
         ORDER BY day = %(day)s DESC, day DESC LIMIT 1)

-- name: uses_of_day
-- The uses of the day that the pair's present row has, and those that deleted ones had.
SELECT coalesce((SELECT usage_count FROM public.usage_daily
                  WHERE user_id = %(user_id)s AND agent_id = %(agent_id)s AND day = %(day)s), 0) AS live,
       coalesce((SELECT usage_count FROM public.usage_retired_daily
                  WHERE user_id = %(user_id)s AND agent_id = %(agent_id)s AND day = %(day)s), 0) AS retired

-- name: uses_since
-- How many uses of the day were recorded after a time.
SELECT count(*) AS uses
  FROM public.usage_events
 WHERE user_id = %(user_id)s AND agent_id = %(agent_id)s AND type = 'usage' AND recorded_at > %(since)s
   AND occurred_at >= %(day)s::date::timestamp AT TIME ZONE 'UTC'
   AND occurred_at < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC'

-- name: replace_event
-- In place: nothing but these columns changes. Returns the row as JSON.
UPDATE public.usage_events e SET
    {corrected} = %({corrected})s
 WHERE event_id = %(event_id)s AND occurred_at = %(occurred_at)s
RETURNING to_jsonb(e)::text

-- name: correct_day
-- Add what the correction changes to the totals of the day; returns the least of them.
UPDATE public.{table} d SET
    {daily} = d.{daily} + coalesce((%(added)s::jsonb ->> '{daily}')::numeric, 0)
 WHERE user_id = %(user_id)s AND agent_id = %(agent_id)s AND day = %(day)s
RETURNING least(
    {daily}
)

-- name: impossible_counter
-- A counter that the correction would make negative or too large for its column, and the greatest value of it.
SELECT counter, total, most
  FROM public.user_agents ua
 CROSS JOIN LATERAL (
    VALUES
    ('{counters}', coalesce(ua.{counters}, 0) + coalesce((%(added)s::jsonb ->> '{counters}')::numeric, 0), pg_typeof(ua.{counters}))
 ) AS counters (counter, total, type)
 CROSS JOIN LATERAL (
    SELECT CASE type WHEN 'integer'::regtype THEN 2147483647 WHEN 'bigint'::regtype THEN 9223372036854775807
                     ELSE 9999999999.9999999999 END AS most
 ) AS bound
 WHERE ua.id = %(id)s AND (total < 0 OR total > most)
 LIMIT 1

-- name: correct_counters
-- Add what the correction changes to the counters of the pair. A trigger sets the quality score, as it does for batches.
UPDATE public.user_agents ua SET
    updated_at = now(),
    {counters} = coalesce(ua.{counters}, 0) + coalesce((%(added)s::jsonb ->> '{counters}')::numeric, 0),
    avg_response_time_ms = round(
        (coalesce(ua.response_time_total_ms, 0) + coalesce((%(added)s::jsonb ->> 'response_time_total_ms')::numeric, 0))
        / nullif(coalesce(ua.response_time_samples, 0)
                 + coalesce((%(added)s::jsonb ->> 'response_time_samples')::numeric, 0), 0)),
    last_conversation_id = %(last_conversation_id)s,
    last_conversation_at = %(last_conversation_at)s
 WHERE id = %(id)s

-- name: correct_rating
-- The rating of the pair follows if it is the one of this event's time, the greatest where several have it; what the user has
-- rated elsewhere since then stays. Before the event is replaced.
WITH others AS MATERIALIZED (
    SELECT max(rating) AS rating
      FROM public.usage_events
     WHERE user_id = %(user_id)s AND agent_id = %(agent_id)s AND type = 'rating' AND occurred_at = %(occurred_at)s
       AND event_id <> %(event_id)s
)
UPDATE public.user_agents ua SET
    updated_at = now(),
    user_rating = greatest(%(new)s::numeric, others.rating)
  FROM others
 WHERE ua.id = %(id)s AND ua.last_rating_at = %(occurred_at)s
   AND ua.user_rating = round(greatest(%(old)s::numeric, others.rating), 2)

-- name: add_correction
-- The history: what changed, as it stands in the ledger.
INSERT INTO public.usage_corrections (event_id, occurred_at, user_id, agent_id, changes, reason)
SELECT %(event_id)s, %(occurred_at)s, %(user_id)s, %(agent_id)s,
       jsonb_object_agg(key, jsonb_build_object('old', before -> key, 'new', value)), %(reason)s
  FROM (SELECT %(old)s::jsonb AS before) AS former, jsonb_each(%(new)s::jsonb)
 WHERE before -> key IS DISTINCT FROM value

-- name: delete_old_corrections
-- The history of events whose day the ledger no longer keeps. Few rows: read as a whole.
DELETE FROM public.usage_corrections WHERE occurred_at < %(before)s::date::timestamp AT TIME ZONE 'UTC'
