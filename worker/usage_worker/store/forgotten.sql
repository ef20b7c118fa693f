-- Tombstones of erased users.

-- name: forget_keys
-- Whether anybody was erased, and whether anybody with another key than ours. Like every look for tombstones it locks the
-- table for reading until the end of its transaction, for which an erasure waits.
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
-- The other transactions that have looked for tombstones and are open.
SELECT virtualtransaction AS transaction FROM pg_catalog.pg_locks
 WHERE relation = 'public.usage_forgotten'::regclass AND granted AND pid IS DISTINCT FROM pg_backend_pid()
   AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
