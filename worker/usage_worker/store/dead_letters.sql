-- The quarantine.

-- name: dead_letters_page
-- One page of dead letters, oldest first: those after an id, only the given ids (NULL: all), with the replayed ones
-- only if asked for.
SELECT id, entry_key, position, stream, entry_id, events, reason, payload, created_at, replayed_at
  FROM public.usage_dead_letters
 WHERE id > %(after)s
   AND (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s::bigint[]))
   AND (%(replayed)s OR replayed_at IS NULL)
 ORDER BY id
 LIMIT %(limit)s

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
