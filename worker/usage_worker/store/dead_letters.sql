-- The quarantine.

-- name: dead_letters_by_id
-- Dead letters with their payloads.
SELECT id, entry_key, position, stream, entry_id, events, reason, payload, created_at, replayed_at
  FROM public.usage_dead_letters
 WHERE id = ANY (%(ids)s::bigint[])

-- name: dead_letter_summaries
-- Dead letters without their payloads, of which only the sizes are read.
SELECT id, created_at, events, reason, replayed_at, octet_length(payload) AS bytes
  FROM public.usage_dead_letters
 WHERE id = ANY (%(ids)s::bigint[])

-- name: last_dead_letter
-- The newest dead letter; 0 where there is none.
SELECT coalesce(max(id), 0) AS id FROM public.usage_dead_letters

-- name: matching_in_range
-- Which dead letters of a range of the primary key match every given filter (NULL: any), with the bytes of their payloads,
-- oldest first; and where the range ends (NULL: it is empty). The range is bounded before it is filtered: where statistics
-- are stale, PostgreSQL would expect few matches and read the whole table for each page of them.
WITH range AS MATERIALIZED (
    SELECT id, reason, payload, created_at, replayed_at
      FROM public.usage_dead_letters
     WHERE id > %(after)s AND id <= %(last)s
     ORDER BY id
     LIMIT %(rows)s
), matching AS (
    SELECT id, octet_length(payload) AS bytes
      FROM range
     WHERE (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s::bigint[]))
       AND (%(replayed)s OR replayed_at IS NULL)
       AND (%(reason)s::text IS NULL OR strpos(reason, %(reason)s) > 0)
       AND (%(text)s::text IS NULL OR strpos(payload, %(text)s) > 0)
       AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
       AND (%(until)s::timestamptz IS NULL OR created_at < %(until)s)
)
SELECT ARRAY(SELECT id FROM matching ORDER BY id) AS ids,
       ARRAY(SELECT bytes FROM matching ORDER BY id) AS bytes,
       (SELECT max(id) FROM range) AS reached

-- name: matching_dead_letters
-- How many dead letters match every given filter (NULL: any), their events, and the ids of the newest `limit` of them
-- (NULL: all). The payload is searched for ids of users, agents and events in whatever form it has; nobody does so
-- often, and there is no index.
WITH matching AS MATERIALIZED (
    SELECT id, events
      FROM public.usage_dead_letters
     WHERE (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s::bigint[]))
       AND (%(replayed)s OR replayed_at IS NULL)
       AND (%(reason)s::text IS NULL OR strpos(reason, %(reason)s) > 0)
       AND (%(text)s::text IS NULL OR strpos(payload, %(text)s) > 0)
       AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
       AND (%(until)s::timestamptz IS NULL OR created_at < %(until)s)
)
SELECT count(*) AS dead_letters, coalesce(sum(events), 0)::bigint AS events,
       ARRAY(SELECT id FROM matching ORDER BY id DESC LIMIT %(limit)s) AS ids
  FROM matching

-- name: dead_letter_reasons
-- What each reason kept from being counted, the most events first, of the dead letters that match every given filter.
SELECT reason, sum(events)::bigint AS events, count(*) AS dead_letters, min(created_at) AS first, max(created_at) AS last
  FROM public.usage_dead_letters
 WHERE (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s::bigint[]))
   AND (%(replayed)s OR replayed_at IS NULL)
   AND (%(reason)s::text IS NULL OR strpos(reason, %(reason)s) > 0)
   AND (%(text)s::text IS NULL OR strpos(payload, %(text)s) > 0)
   AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
   AND (%(until)s::timestamptz IS NULL OR created_at < %(until)s)
 GROUP BY reason
 ORDER BY events DESC, reason
 LIMIT %(limit)s

-- name: discard_dead_letters
-- Delete dead letters for good. The intake totals keep their events as quarantined.
WITH deleted AS (DELETE FROM public.usage_dead_letters WHERE id = ANY (%(ids)s::bigint[]) RETURNING events)
SELECT count(*) AS dead_letters, coalesce(sum(events), 0)::bigint AS events FROM deleted

-- name: mark_replayed
-- Mark the dead letters whose events are in the stream again.
UPDATE public.usage_dead_letters SET replayed_at = now() WHERE id = ANY (%(ids)s::bigint[]) RETURNING id

-- name: prune_dead_letters
-- Delete the old ones of a page. By pages of the primary key, since there is no index on created_at: a row is small
-- without its payload, which is not read.
WITH page AS MATERIALIZED (
    SELECT id, created_at FROM public.usage_dead_letters WHERE id > %(after)s ORDER BY id LIMIT %(rows)s
), deleted AS (
    DELETE FROM public.usage_dead_letters
     WHERE id = ANY (ARRAY(SELECT id FROM page WHERE created_at < now() - %(older_than)s::interval))
    RETURNING id
)
SELECT (SELECT count(*) FROM deleted) AS deleted, max(id) AS reached FROM page
