-- What was delivered before: entries, the events of theirs that wait or were refused, times of keys, events of the ledger.

-- name: register_entries
-- Register stream entries; returns those that are new. A second transaction with the same entry waits here for the end
-- of the first, so that an entry that two workers have is in the intake totals once.
INSERT INTO public.usage_entries (key, contents)
SELECT key, contents
  FROM unnest(%(keys)s::uuid[], %(contents)s::uuid[], %(formers)s::uuid[]) AS entry (key, contents, former)
 -- A version that noted no contents may have counted it under its former key.
 WHERE former IS NULL
    OR (SELECT true FROM public.usage_entries f WHERE f.key = former AND f.contents IS NULL) IS NULL
 ORDER BY key
ON CONFLICT DO NOTHING
RETURNING key

-- name: waiting_positions
-- Registered entries of which some events wait, as `note_waiting` left them. Locked, so that another worker with the same entry
-- waits here, and then finds what is left.
SELECT key, held_in FROM public.usage_entries WHERE key = ANY (%(keys)s) AND held_in IS NOT NULL ORDER BY key
   FOR UPDATE

-- name: note_waiting
-- Note the stream entry and the positions of its events that wait, NULL when none does any more.
UPDATE public.usage_entries SET held_in = %(held_in)s WHERE key = %(key)s AND held_in IS DISTINCT FROM %(held_in)s

-- name: entry_contents
-- What entries that were registered before contain: the same, or something else under a key that was used again.
SELECT key, contents FROM public.usage_entries WHERE key = ANY (%(keys)s)

-- name: dead_letter_positions
-- The dead letters that the first delivery of redelivered entries left.
SELECT entry_key, position FROM public.usage_dead_letters WHERE entry_key = ANY (%(keys)s)

-- name: keep_first_times
-- Keep the times of keys that were not delivered before; returns those keys. In key order, so that batches with common
-- keys wait here for one another's end instead of deadlocking, and then agree.
INSERT INTO public.usage_event_keys (key, occurred_at)
SELECT key, occurred_at FROM unnest(%(ids)s::uuid[], %(times)s::timestamptz[]) AS b (key, occurred_at) ORDER BY key
ON CONFLICT DO NOTHING
RETURNING key

-- name: first_times
-- The kept times of keys, in microseconds since 1970. A statement of its own: what another batch has just committed is
-- visible only to the next one.
SELECT key, (extract(epoch FROM occurred_at) * 1000000)::bigint
  FROM public.usage_event_keys WHERE key = ANY (%(ids)s::uuid[])

-- name: known_events
-- The given events that the ledger has, by their position in the arrays. The time bounds exclude the partitions
-- that cannot hold them.
SELECT b.place
  FROM unnest(%(ids)s::uuid[], %(times)s::timestamptz[]) WITH ORDINALITY AS b (event_id, occurred_at, place)
  JOIN public.usage_events e USING (event_id, occurred_at)
 WHERE e.occurred_at BETWEEN %(oldest)s AND %(newest)s
