-- Tombstones of erased users.

-- name: look_for_forgotten
-- Precedes every look for tombstones: until the end of this transaction an erasure waits for it. A statement of its own,
-- since the snapshot of the look must be newer than the lock. Nobody takes this lock exclusively, so nobody waits for it, and
-- unlike a lock on the table, dumps and clients do not have it. Returns whether there are tombstones to look for: during an
-- upgrade, new workers run on the previous schema. For the first key see try_task_lock.
SELECT pg_advisory_xact_lock_shared(1970370406, hashtext('usage_forgotten')),
       to_regclass('public.usage_forgotten') IS NOT NULL

-- name: forget_keys
-- Whether anybody was erased, and whether anybody with another key than ours.
SELECT EXISTS (SELECT FROM public.usage_forgotten) AS are_any,
       EXISTS (SELECT FROM public.usage_forgotten WHERE key_id IS DISTINCT FROM %(key_id)s::bytea) AS are_others

-- name: forgotten_hashes
-- Those of the hashes that are tombstones.
SELECT hash FROM public.usage_forgotten WHERE hash = ANY (%(hashes)s::bytea[])

-- name: tombstones
-- Every tombstone.
SELECT hash, key_id FROM public.usage_forgotten

-- name: add_tombstones
-- Of two erasures of the same user the first time stays.
INSERT INTO public.usage_forgotten (hash, key_id)
SELECT * FROM unnest(%(hashes)s::bytea[], %(key_ids)s::bytea[]) ON CONFLICT DO NOTHING

-- name: forgotten_readers
-- The other transactions that look for tombstones, or have looked, with what lock_holders says of a holder.
SELECT l.virtualtransaction AS transaction, l.pid, coalesce(a.application_name = 'usage-worker', false) AS is_ours,
       a.usename::text AS role, a.state, extract(epoch FROM clock_timestamp() - a.xact_start)::integer AS seconds
  FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.classid = 1970370406 AND l.objsubid = 2
   AND l.objid = (hashtext('usage_forgotten')::bigint & 4294967295)::oid
   AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
   AND l.pid IS DISTINCT FROM pg_backend_pid()
 ORDER BY a.xact_start, l.pid
