-- Soft-deleted rows past their retention, expired shares, retired days.

-- name: purge_due
-- The number of rows that are due, and how many seconds ago the oldest of them was deleted. Before 4.0.0 a client could
-- write -infinity.
SELECT count(*) AS remaining,
       extract(epoch FROM now() - min(greatest(deleted_at, 'epoch')))::float8 AS oldest_remaining_seconds
  FROM public.user_agents
 WHERE deleted_at <= now() - %(older_than)s::interval

-- name: sort_in_memory
-- For the rest of the transaction: the places of a million rows take 25 MB.
SET LOCAL work_mem = '64MB'

-- name: purge_blocks
-- The places of the rows that are due, in chunks, in the order of the table: each page and its image in the WAL is then
-- written once, and not once for each row. At most `most` of them, the oldest; the next pass finds the others. To sort them
-- by age, and then to number them, took four times as long, with a snapshot that keeps updates from being HOT.
WITH due AS MATERIALIZED (
    SELECT array_agg(place) AS places
      FROM (SELECT ctid AS place FROM public.user_agents
             WHERE deleted_at <= now() - %(older_than)s::interval
               AND deleted_at <= coalesce(
                       (SELECT deleted_at FROM public.user_agents
                         WHERE deleted_at <= now() - %(older_than)s::interval
                         ORDER BY deleted_at OFFSET %(most)s - 1 LIMIT 1),
                       'infinity')
             ORDER BY place LIMIT %(most)s) AS oldest
)
SELECT places[first : first + %(rows)s - 1]::text AS places
  FROM due, generate_series(1, cardinality(places), %(rows)s) AS first
 ORDER BY first

-- name: mark_purge
-- The action that the audit trail records for the deletions of this transaction.
SELECT set_config('usage_worker.action', 'purge', true)

-- name: purge_chunk
-- An array, since a join may evaluate the subquery that locks rows again for every row. Locked rows are skipped; a row
-- that moved, or another one in its place, is deleted only if it is due.
DELETE FROM public.user_agents
 WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM public.user_agents
         WHERE ctid = ANY (%(places)s::tid[]) AND deleted_at <= now() - %(older_than)s::interval
           FOR UPDATE SKIP LOCKED))
   AND deleted_at <= now() - %(older_than)s::interval

-- name: delete_expired_shares
-- Expired shares: they grant nothing any more, but the columns of 3.0.0 still name them. Sharing locks shares before rows,
-- a write to the columns rows before shares: locked ones of both are left to the next run, so that this never deadlocks.
WITH held AS MATERIALIZED (
    SELECT id FROM public.user_agents
     WHERE id = ANY (ARRAY(
            SELECT user_agent_id FROM public.user_agent_shares
             WHERE expires_at <= now() ORDER BY expires_at LIMIT %(rows)s))
       FOR NO KEY UPDATE SKIP LOCKED
), expired AS MATERIALIZED (
    SELECT s.id FROM public.user_agent_shares AS s JOIN held ON held.id = s.user_agent_id
     WHERE s.expires_at <= now()
       FOR UPDATE OF s SKIP LOCKED
)
DELETE FROM public.user_agent_shares AS s USING expired WHERE s.id = expired.id

-- name: delete_retired_days
-- Retired daily totals of days that the ledger no longer has.
DELETE FROM public.usage_retired_daily
 WHERE ctid = ANY (ARRAY(SELECT ctid FROM public.usage_retired_daily WHERE day < %(oldest)s LIMIT %(rows)s))
